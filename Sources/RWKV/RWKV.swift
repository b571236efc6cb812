// RWKV
