// SPDX-License-Identifier: MIT
// Where a Swift toolchain is installed, Swift's runtime takes over the signals of crashes when it is loaded, SIGQUIT
// among them, to print backtraces. A C or Python program that loads librwkv.so has not asked for that: what the runtime
// has taken over goes back to the system's default before the program runs.
#define _GNU_SOURCE
#include "host.h"
#include <dlfcn.h>
#include <signal.h>
#include <stddef.h>

extern void swift_retain(void);

// The file that an address is in, by where it is loaded; NULL: none.
static const void * home(const void * address) {
    Dl_info info;
    return dladdr(address, &info) ? info.dli_fbase : NULL;
}

__attribute__((constructor)) static void give_back_signals(void) {
    const void * runtime = home((const void *) swift_retain);
    for (int number = 1; number < NSIG; number++) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) != 0 || action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
            continue;
        }
        if (runtime != NULL && home((const void *) action.sa_handler) == runtime) signal(number, SIG_DFL);
    }
}
