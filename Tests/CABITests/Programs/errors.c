/* Opens files that cannot be opened and prints the error's flags, a line each: errors MODEL FILE...
 * FILE: a model; with "state:" in front a state of MODEL; with "quantize:" a checkpoint. */
#include "rwkv.h"

#include <stdio.h>
#include <string.h>

int main(int count, char ** arguments) {
    struct rwkv_context * model = rwkv_init_from_file(arguments[1], 1, 0);
    if (model == NULL) {
        return 1;
    }
    for (int i = 2; i < count; i++) {
        const char * path = strchr(arguments[i], ':');
        int failed;
        struct rwkv_context * place = NULL;
        if (path == NULL) {
            path = arguments[i];
            failed = rwkv_init_from_file(path, 1, 0) == NULL;
        } else if (arguments[i][0] == 's') {
            place = model;
            failed = rwkv_state_load(model, path + 1) == NULL;
        } else {
            failed = !rwkv_quantize_model_file(path + 1, "/dev/null/none", "INT4");
        }
        if (!failed) {
            return 2;
        }
        printf("%d\n", (int) rwkv_get_last_error(place));
    }
    rwkv_free(model);
    return 0;
}
