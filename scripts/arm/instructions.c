/* A plugin for QEMU that counts the instructions a program executes: on a machine without an ARM processor, what a
 * kernel costs there. Emulated seconds say nothing; this count is the same on every machine.
 *
 *   gcc -shared -fPIC -O2 -o instructions.so scripts/arm/instructions.c
 *   qemu-aarch64 -L /usr/aarch64-linux-gnu -plugin ./instructions.so PROGRAM
 *
 * The few declarations below are those of QEMU 7.2's qemu-plugin.h, which Debian does not package. */

#include <inttypes.h>
#include <stdio.h>

struct qemu_plugin_tb;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*translated)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *counter, uint64_t by);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*ended)(uint64_t, void *), void *data);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t executed;

/* Adding is not atomic: count programs of one thread. */
static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    enum { ADD = 0 };
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &executed, qemu_plugin_tb_n_insns(block));
}

static void ended(uint64_t id, void *data)
{
    (void)id;
    (void)data;
    fprintf(stderr, "%" PRIu64 " instructions\n", executed);
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *machine, int argc, char **argv)
{
    (void)machine;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, 0);
    return 0;
}
