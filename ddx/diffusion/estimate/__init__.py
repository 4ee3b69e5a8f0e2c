"""What a network's output says of the data: predictions, and denoisers made of them."""
