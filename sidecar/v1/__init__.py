"""Generated from proto/sidecar/v1 by tools/generate_proto.sh; never edited by hand."""
