"""What tests share: real servers, a clock to move, a wallet and a client."""
