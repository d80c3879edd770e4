"""Small convolutional networks for MNIST: build, train, prune and compare them."""
