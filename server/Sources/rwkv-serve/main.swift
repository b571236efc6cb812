import Hummingbird
import RWKV
print("x")
