"""Writes a .pth file of matrices of zeros, as torch.save does, without torch: pth.py FILE COUNT ROWS COLUMNS"""

import collections
import pickle
import sys
import types
import zipfile

file, count, rows, columns = sys.argv[1], *map(int, sys.argv[2:])


class BFloat16Storage:
    pass


def _rebuild_tensor_v2(*_):
    pass


for module, thing in (("torch", BFloat16Storage), ("torch._utils", _rebuild_tensor_v2)):
    sys.modules[module] = types.ModuleType(module)
    setattr(sys.modules[module], thing.__name__, thing)
    thing.__module__ = module


class Storage:
    def __init__(self, key):
        self.key = key


class Matrix:
    def __init__(self, key):
        self.storage = Storage(key)

    def __reduce__(self):
        return _rebuild_tensor_v2, (self.storage, 0, (rows, columns), (columns, 1), False, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return ("storage", BFloat16Storage, thing.key, "cpu", rows * columns) if isinstance(thing, Storage) else None


with zipfile.ZipFile(file, "w") as archive:
    with archive.open("archive/data.pkl", "w") as stream:
        Pickler(stream, protocol=2).dump({f"matrix.{index}": Matrix(str(index)) for index in range(count)})
    for index in range(count):
        archive.writestr(f"archive/data/{index}", bytes(2 * rows * columns))
    archive.writestr("archive/version", "3\n")
