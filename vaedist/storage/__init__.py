"""Local folders and object stores behind pyarrow filesystem URIs: retries, copies, mirrors and the shard cache."""
