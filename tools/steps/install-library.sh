#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs a built librwkv with its header, pkg-config and CMake files, all of which find each other by their places:
#   tools/steps/install-library.sh LIBRARY PREFIX [LIBDIR, within it; by default lib]
set -eu
library=$1
header=$(dirname "$0")/../../Sources/CRWKVABI/include/rwkv.h
prefix=$2
lib=${3:-lib}
up=$(echo "$lib" | sed 's|[^/]*|..|g') # from it to PREFIX
# The one place that has the version.
number() { sed -n "s/^#define RWKV_VERSION_$1 //p" "$header"; }
version=$(number MAJOR).$(number MINOR).$(number PATCH)

mkdir -p "$prefix/include" "$prefix/$lib/pkgconfig" "$prefix/$lib/cmake/rwkv"
cp "$header" "$prefix/include/"
# Removed first: a program that is running keeps its copy.
rm -f "$prefix/$lib/librwkv.so.0"
cp "$library" "$prefix/$lib/librwkv.so.0"
ln -sf librwkv.so.0 "$prefix/$lib/librwkv.so"

cat >"$prefix/$lib/pkgconfig/rwkv.pc" <<PC
prefix=\${pcfiledir}/../$up
libdir=\${prefix}/$lib
Name: rwkv
Description: RWKV language models on CPUs
Version: $version
Cflags: -I\${prefix}/include
Libs: -L\${libdir} -lrwkv
PC

cat >"$prefix/$lib/cmake/rwkv/rwkvConfig.cmake" <<CMAKE
# find_package(rwkv) and target_link_libraries(PROGRAM rwkv::rwkv)
get_filename_component(rwkv_prefix "\${CMAKE_CURRENT_LIST_DIR}/../../$up" ABSOLUTE)
if(NOT TARGET rwkv::rwkv)
  add_library(rwkv::rwkv SHARED IMPORTED)
  set_target_properties(rwkv::rwkv PROPERTIES
    IMPORTED_LOCATION "\${rwkv_prefix}/$lib/librwkv.so.0"
    IMPORTED_SONAME librwkv.so.0
    INTERFACE_INCLUDE_DIRECTORIES "\${rwkv_prefix}/include")
endif()
CMAKE

cat >"$prefix/$lib/cmake/rwkv/rwkvConfigVersion.cmake" <<CMAKE
set(PACKAGE_VERSION $version)
# Versions 0.x add to each other: what was written for an earlier one works.
if(PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION OR PACKAGE_FIND_VERSION_MAJOR GREATER $(number MAJOR))
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_VERSION VERSION_EQUAL PACKAGE_FIND_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
CMAKE
