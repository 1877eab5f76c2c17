"""Files elsewhere: object stores behind pyarrow filesystem URIs, reached with patience, mirrored and cached."""
