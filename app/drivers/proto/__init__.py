"""What is on the wire of gRPC? ``driver_manager.proto``, and what protoc makes of it.

``python -m app.drivers.proto`` makes the modules beside this one anew.
"""
