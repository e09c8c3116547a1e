/* A plugin of qemu-user (TCG plugin API, version 1): how often each instruction was executed.
 *
 *     cc -O2 -shared -fPIC -o libicount.so icount.c
 *     env -i qemu-aarch64 -d plugin -D counts.txt -plugin ./libicount.so program...
 *
 * Writes a line "ADDRESS COUNT" for every executed address, in hexadecimal and decimal. The counts are exact and the same in every
 * run of a program with one thread. QEMU's header is not needed: these few declarations are the stable part of it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t plugin_id;
struct block;
struct instruction;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int op, void *counter, uint64_t add);
extern uint64_t qemu_plugin_insn_vaddr(const struct instruction *);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern void qemu_plugin_outs(const char *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* One translated block; a block is executed from its first to its last instruction. */
struct entry {
    struct entry *next;
    uint64_t count, address;
    size_t instructions;
};
static struct entry *entries;

static void translated(plugin_id id, struct block *block) {
    (void)id;
    struct entry *e = calloc(1, sizeof *e);
    if (!e) abort();
    e->address = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(block, 0));
    e->instructions = qemu_plugin_tb_n_insns(block);
    e->next = entries;
    entries = e;
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0 /* add */, &e->count, 1);
}

static void finish(plugin_id id, void *unused) {
    (void)id, (void)unused;
    char line[64];
    for (const struct entry *e = entries; e; e = e->next)
        for (size_t i = 0; e->count && i < e->instructions; i++) { /* every A64 instruction has 4 bytes */
            snprintf(line, sizeof line, "%llx %llu\n", (unsigned long long)(e->address + 4 * i), (unsigned long long)e->count);
            qemu_plugin_outs(line);
        }
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finish, NULL);
    return 0;
}
