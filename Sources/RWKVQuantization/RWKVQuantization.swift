// RWKVQuantization
