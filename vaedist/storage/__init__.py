"""Local folders and object stores at pyarrow filesystem URIs: retries, copies, mirrors and the shard cache."""
