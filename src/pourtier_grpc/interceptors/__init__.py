"""What happens round every call: one concern a module, composed once per method.

At start the server takes each method of the contract and wraps the servicer's method
in the interceptors of `chain`, outermost first. A call then runs through plain nested
functions; nothing is looked up or built again.
"""
