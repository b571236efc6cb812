// RWKVCheckpoint
