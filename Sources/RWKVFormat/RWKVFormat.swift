// RWKVFormat
