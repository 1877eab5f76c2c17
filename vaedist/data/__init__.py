"""Data sets: converted once to Arrow shards (`prepare`), then read from them in a fixed order (`lane_reader`)."""
