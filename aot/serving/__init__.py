"""Answer many questions about many videos: batches, and engines that run them."""
