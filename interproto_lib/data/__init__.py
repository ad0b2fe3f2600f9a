"""Tables, images and pairs: what goes into training and evaluation."""
