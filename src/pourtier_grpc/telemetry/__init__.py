"""What the service shows of itself: metrics to scrape, and traces.

Logs are in `pourtier_grpc.logs`, below all that writes them.
"""
