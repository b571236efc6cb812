// SPDX-License-Identifier: MIT
// libcurl's interface as far as it is used. The library is looked for when the program runs; its functions with
// variable arguments are called from here, because Swift cannot.
#pragma once
#include <stddef.h>

/// curl_easy_setopt
typedef int (*curl_setopt)(void *handle, int option, ...);
/// CURLOPT_WRITEFUNCTION and CURLOPT_HEADERFUNCTION
typedef size_t (*curl_receive)(char *bytes, size_t size, size_t count, void *context);
/// CURLOPT_XFERINFOFUNCTION
typedef int (*curl_progress)(void *context, long long, long long, long long, long long);

enum {
  CURL_ERROR_SIZE = 256,
  CURL_HTTP_AND_HTTPS = 3,

  CURL_LOW_SPEED_LIMIT = 19,
  CURL_LOW_SPEED_TIME = 20,
  CURL_NOPROGRESS = 43,
  CURL_CONNECTTIMEOUT = 78,
  CURL_NOSIGNAL = 99,
  CURL_PROTOCOLS = 181,
  CURL_SUPPRESS_CONNECT_HEADERS = 265,
  CURL_WRITEDATA = 10001,
  CURL_URL = 10002,
  CURL_RANGE = 10007,
  CURL_ERRORBUFFER = 10010,
  CURL_USERAGENT = 10018,
  CURL_HTTPHEADER = 10023,
  CURL_HEADERDATA = 10029,
  CURL_CAINFO = 10065,
  CURL_CAPATH = 10097,
  CURL_ACCEPT_ENCODING = 10102,
  CURL_NOPROXY = 10177,
  CURL_WRITEFUNCTION = 20011,
  CURL_HEADERFUNCTION = 20079,
  CURL_XFERINFOFUNCTION = 20219
};

static inline int curl_set_long(curl_setopt set, void *handle, int option, long value) {
  return set(handle, option, value);
}
static inline int curl_set_text(curl_setopt set, void *handle, int option, const char *value) {
  return set(handle, option, value);
}
static inline int curl_set_pointer(curl_setopt set, void *handle, int option, void *value) {
  return set(handle, option, value);
}
static inline int curl_set_receive(curl_setopt set, void *handle, int option, curl_receive value) {
  return set(handle, option, value);
}
static inline int curl_set_progress(curl_setopt set, void *handle, int option, curl_progress value) {
  return set(handle, option, value);
}
