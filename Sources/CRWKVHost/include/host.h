// SPDX-License-Identifier: MIT
// What librwkv.so does when a program loads it. Nothing to call: see host.c.
