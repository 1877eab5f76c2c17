"""Images: read once into Arrow shards (`prepare`), then streamed from them in a fixed order (`stream`)."""
