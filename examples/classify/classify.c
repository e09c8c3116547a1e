/* Classifies images on a board: files, all images of a folder, and with --watch every image that a camera puts into a folder.
 *
 *     classify MODEL.bvt PATH... [--watch] [--raw WxH:rgb|gray] ...          classify --help has the whole list
 *
 * A line an image on stdout, fields separated by tabs: its path, the classes with their probabilities, then how long it took to
 * read the image and to run the model. An image that cannot be read is a line on stderr, and the next one follows.
 * Exit status: 0 all was classified; 1 something could not be read; 2 wrong use, or the model cannot be used.
 *
 * It needs libbvt and the decoder of runtime_arm/tools (stb_image). README.md says how it is built.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <bvt.h>

#include "image_file.h"

#define MAX_FILE ((size_t)256 << 20)
#define MAX_TOP 10

static const char usage[] = "usage: classify MODEL.bvt PATH... [options]\n"
                            "  PATH             an image (JPEG, PNG, BMP, PNM), or a folder of them\n"
                            "  --watch          go on: classify what comes into the folder, or changes there, until Ctrl-C\n"
                            "  --new            with --watch: leave out what is there already\n"
                            "  --poll MS        with --watch: how often to look (default 200)\n"
                            "  --count N        end after N images\n"
                            "  --raw WxH:rgb    files are raw frames of 8-bit pixels, W x H x 3; WxH:gray: one byte a pixel\n"
                            "  --top K          classes to print (default 3, at most 10)\n"
                            "  --threads N      default 1\n"
                            "  --cpus CORES     a list such as 0-3,6, or 'fast'\n";

typedef struct {
    const char *model, **paths;
    uint32_t n_paths, top, threads;
    const char *cpus;
    uint32_t raw_width, raw_height, raw_channels; /* raw_channels 0: encoded images */
    unsigned long count, poll_ms;
    bool watch, only_new;
} arguments;

typedef struct {
    arguments a;
    bvt_model *model;
    bvt_session *session;
    float *input, *output;
    uint32_t classes, labels;
    unsigned long done, failed;
} state;

static volatile sig_atomic_t stopped;
static void stop(int signal_number) { stopped = signal_number; }

static _Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("classify: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(2);
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Names of files are not ours: no control character of them reaches a terminal, and a line stays a line. */
static void print_name(FILE *to, const char *name) {
    for (; *name; name++) fputc((unsigned char)*name < 32 || *name == 127 ? '?' : *name, to);
}

static void complain(state *s, const char *path, const char *why) {
    s->failed++;
    fflush(stdout);
    fputs("classify: ", stderr);
    print_name(stderr, path);
    fprintf(stderr, ": %s\n", why);
}

/* ---- Images -------------------------------------------------------------------------------------------------------------- */

/* The file's bytes, or NULL with *why. */
static uint8_t *read_file(const char *path, size_t *bytes, const char **why) {
    struct stat st;
    uint8_t *data = NULL;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO would wait for its writer */
    if (fd < 0 || fstat(fd, &st)) *why = strerror(errno);
    else if (!S_ISREG(st.st_mode)) *why = S_ISDIR(st.st_mode) ? "it is a folder" : "not a regular file";
    else if (st.st_size == 0) *why = "the file is empty";
    else if (st.st_size < 0 || (uintmax_t)st.st_size > MAX_FILE) *why = "the file is too large";
    else if (!(data = malloc((size_t)st.st_size))) *why = "out of memory";
    if (data) {
        size_t have = 0;
        while (have < (size_t)st.st_size) {
            const ssize_t n = read(fd, data + have, (size_t)st.st_size - have);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) break;
            have += (size_t)n;
        }
        if (have != (size_t)st.st_size) {
            *why = "the file changed while it was read";
            free(data);
            data = NULL;
        }
        *bytes = have;
    }
    if (fd >= 0) close(fd);
    return data;
}

/* Whether a JPEG file has its end marker. The decoder fills what is missing of a picture with grey, which would be classified. What
 * follows the end is allowed: some cameras append their raw data. */
static bool jpeg_is_whole(const uint8_t *p, size_t n) {
    for (size_t at = 2; at + 2 <= n;) {
        const uint8_t marker = p[at + 1];
        if (p[at] != 0xFF) at++; /* within the coded data, or damaged: the next marker decides */
        else if (marker == 0xD9) return true;
        else if (marker == 0xFF) at++;                                                      /* fill */
        else if (marker == 0 || marker == 1 || (marker >= 0xD0 && marker <= 0xD8)) at += 2; /* no length */
        else if (at + 4 > n) return false;
        else at += 2 + ((size_t)p[at + 2] << 8 | p[at + 3]); /* over a thumbnail, which has an end marker too */
    }
    return false;
}

/* Reads an image into s->input. Returns NULL, or why not. */
static const char *load(state *s, const char *path) {
    static bvt_error err;
    uint32_t width = s->a.raw_width, height = s->a.raw_height, channels = s->a.raw_channels;
    const char *why = NULL;
    size_t bytes = 0;
    uint8_t *data = read_file(path, &bytes, &why), *pixels = data;
    if (!data) return why;
    if (channels) {
        if (bytes != (size_t)width * height * channels) why = "its size is not that of a frame";
    } else if (bytes >= 2 && data[0] == 0xFF && data[1] == 0xD8 && !jpeg_is_whole(data, bytes)) {
        why = "the JPEG file is cut short: it has no end marker";
    } else {
        pixels = image_decode(data, bytes, &width, &height, &channels, &why);
        if (pixels) why = NULL;
    }
    if (!why && bvt_preprocess(s->model, pixels, width, height, channels, s->input, &err)) why = err.text;
    if (!s->a.raw_channels && pixels != data && pixels) image_free(pixels);
    free(data);
    return why;
}

/* The `n` largest of the outputs, largest first, as percent of a softmax. NaN is never among them. */
static uint32_t best(const state *s, uint32_t n, uint32_t index[MAX_TOP], double percent[MAX_TOP]) {
    uint32_t found = 0;
    double sum = 0;
    for (uint32_t i = 0; i < s->classes; i++) {
        uint32_t at = found;
        if (isnan(s->output[i])) continue;
        while (at > 0 && s->output[i] > s->output[index[at - 1]]) at--;
        if (at >= n) continue;
        if (found < n) found++;
        memmove(index + at + 1, index + at, (found - at - 1) * sizeof *index);
        index[at] = i;
    }
    for (uint32_t i = 0; found && i < s->classes; i++)
        if (!isnan(s->output[i])) sum += exp((double)s->output[i] - (double)s->output[index[0]]);
    for (uint32_t i = 0; i < found; i++) percent[i] = 100 * exp((double)s->output[index[i]] - (double)s->output[index[0]]) / sum;
    return found;
}

static void classify(state *s, const char *path) {
    uint32_t index[MAX_TOP];
    double percent[MAX_TOP];
    const double start = now_ms();
    const char *why = load(s, path);
    if (why) {
        complain(s, path, why);
        return;
    }
    const double loaded = now_ms();
    bvt_run(s->session, s->input, s->output);
    const double end = now_ms();
    const uint32_t n = best(s, s->a.top, index, percent);
    print_name(stdout, path);
    for (uint32_t i = 0; i < n; i++) {
        if (index[i] < s->labels) printf("\t%s %.1f %%", bvt_get_label(s->model, index[i]), percent[i]);
        else printf("\tclass %u %.1f %%", index[i], percent[i]);
    }
    printf("\tread %.1f ms\tmodel %.2f ms\n", loaded - start, end - loaded);
    fflush(stdout); /* who reads it through a pipe wants it now */
    s->done++;
}

static bool finished(const state *s) { return stopped || (s->a.count && s->done >= s->a.count); }

/* ---- Folders ------------------------------------------------------------------------------------------------------------- */

/* Whether an entry of a folder is taken for an image: by its ending; of raw frames every file that is not hidden or half written. */
static bool is_image(const state *s, const char *name) {
    static const char *const endings[] = {".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".pnm"};
    const char *dot = strrchr(name, '.');
    if (name[0] == '.') return false;
    if (s->a.raw_channels) return !dot || (strcasecmp(dot, ".tmp") && strcasecmp(dot, ".part"));
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (!strcasecmp(dot, endings[i])) return true;
    return false;
}

/* One file of a folder. It is complete when size and time have stayed the same from one look to the next. */
typedef struct {
    char *name;
    off_t size;
    ino_t inode;
    struct timespec time;
    bool seen, steady, done;
} entry;

typedef struct {
    const char *path;
    entry *entries; /* sorted by name */
    size_t n, room;
} folder;

static int by_name(const void *a, const void *b) { return strcmp(((const entry *)a)->name, ((const entry *)b)->name); }

static char *join(const char *path, const char *name) {
    const size_t bytes = strlen(path) + strlen(name) + 2;
    char *joined = malloc(bytes);
    if (!joined) die("out of memory");
    const size_t n = strlen(path);
    snprintf(joined, bytes, "%s%s%s", path, n && path[n - 1] == '/' ? "" : "/", name);
    return joined;
}

/* Looks at a file that is there, for the first time or again. */
static void note(folder *f, const char *name, const struct stat *st, bool done) {
    entry key = {.name = (char *)(uintptr_t)name};
    entry *e = f->n ? bsearch(&key, f->entries, f->n, sizeof *f->entries, by_name) : NULL;
    if (!e) {
        if (f->n == f->room) {
            f->room = f->room ? 2 * f->room : 64;
            if (!(f->entries = realloc(f->entries, f->room * sizeof *f->entries))) die("out of memory");
        }
        size_t at = f->n++;
        while (at > 0 && strcmp(f->entries[at - 1].name, name) > 0) f->entries[at] = f->entries[at - 1], at--;
        e = &f->entries[at];
        *e = (entry){.name = strdup(name), .size = -1, .done = done};
        if (!e->name) die("out of memory");
    }
    const bool same = e->size == st->st_size && e->inode == st->st_ino && e->time.tv_sec == st->st_mtim.tv_sec &&
                      e->time.tv_nsec == st->st_mtim.tv_nsec;
    if (!same && e->size >= 0) e->done = false; /* written again */
    e->seen = true;
    e->steady = same && st->st_size > 0;
    e->size = st->st_size, e->inode = st->st_ino, e->time = st->st_mtim;
}

/* Looks once at the folder. Returns false, with errno, where it cannot be read. */
static bool look(state *s, folder *f, bool done) {
    DIR *dir = opendir(f->path);
    if (!dir) return false;
    for (size_t i = 0; i < f->n; i++) f->entries[i].seen = false;
    for (struct dirent *d; (d = readdir(dir));) {
        struct stat st;
        if (!is_image(s, d->d_name) || fstatat(dirfd(dir), d->d_name, &st, 0)) continue; /* it may be gone again */
        note(f, d->d_name, &st, done);
    }
    closedir(dir);
    size_t kept = 0; /* what is gone is forgotten: a file that comes back is new */
    for (size_t i = 0; i < f->n; i++) {
        if (f->entries[i].seen) f->entries[kept++] = f->entries[i];
        else free(f->entries[i].name);
    }
    f->n = kept;
    return true;
}

/* Classifies what is new; while watching, only files that are steady. */
static void classify_new(state *s, folder *f, bool watching) {
    for (size_t i = 0; i < f->n && !finished(s); i++) {
        entry *e = &f->entries[i];
        if (e->done || (watching && !e->steady)) continue;
        char *path = join(f->path, e->name);
        classify(s, path);
        free(path);
        e->done = true;
    }
}

static void classify_folder(state *s, const char *path) {
    folder f = {.path = path};
    if (!look(s, &f, s->a.watch && s->a.only_new)) die("%s: %s", path, strerror(errno));
    if (!f.n && !s->a.watch) complain(s, path, "there is no image in this folder");
    if (!s->a.watch) classify_new(s, &f, false);
    while (s->a.watch && !finished(s)) {
        const struct timespec pause = {(time_t)(s->a.poll_ms / 1000), (long)(s->a.poll_ms % 1000) * 1000000};
        nanosleep(&pause, NULL); /* a signal ends it */
        if (stopped) break;
        if (!look(s, &f, false)) die("%s: %s", path, strerror(errno));
        classify_new(s, &f, true);
    }
    for (size_t i = 0; i < f.n; i++) free(f.entries[i].name);
    free(f.entries);
}

/* ---- The program --------------------------------------------------------------------------------------------------------- */

static unsigned long number(const char *option, const char *text, unsigned long least, unsigned long most) {
    char *end = NULL;
    errno = 0;
    const unsigned long n = text && *text >= '0' && *text <= '9' ? strtoul(text, &end, 10) : 0;
    if (!end || *end || errno || n < least || n > most) die("%s needs a number from %lu to %lu", option, least, most);
    return n;
}

static void parse_raw(arguments *a, const char *text) {
    char kind[5] = "";
    int end = 0;
    if (!text || sscanf(text, "%5ux%5u:%4[a-z]%n", &a->raw_width, &a->raw_height, kind, &end) != 3 || text[end] || !a->raw_width ||
        !a->raw_height || a->raw_width > 32768 || a->raw_height > 32768 || (strcmp(kind, "rgb") && strcmp(kind, "gray")))
        die("--raw needs a size and a kind, such as 640x480:rgb or 640x480:gray");
    a->raw_channels = kind[0] == 'r' ? 3 : 1;
}

static arguments parse(int argc, char **argv) {
    arguments a = {.top = 3, .threads = 1, .poll_ms = 200};
    if (!(a.paths = calloc((size_t)argc, sizeof *a.paths))) die("out of memory");
    for (int i = 1; i < argc; i++) {
        const char *o = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(o, "--help") || !strcmp(o, "-h")) fputs(usage, stdout), exit(0);
        else if (!strcmp(o, "--watch")) a.watch = true;
        else if (!strcmp(o, "--new")) a.only_new = true;
        else if (!strcmp(o, "--poll")) a.poll_ms = number(o, next, 10, 3600000), i++;
        else if (!strcmp(o, "--count")) a.count = number(o, next, 1, 1000000000), i++;
        else if (!strcmp(o, "--top")) a.top = (uint32_t)number(o, next, 1, MAX_TOP), i++;
        else if (!strcmp(o, "--threads")) a.threads = (uint32_t)number(o, next, 1, BVT_MAX_THREADS), i++;
        else if (!strcmp(o, "--raw")) parse_raw(&a, next), i++;
        else if (!strcmp(o, "--cpus")) {
            if (!(a.cpus = next)) die("--cpus needs a list of cores");
            i++;
        } else if (o[0] == '-' && o[1]) die("unknown option %s (see --help)", o);
        else if (!a.model) a.model = o;
        else a.paths[a.n_paths++] = o;
    }
    if (!a.model) die("no model (see --help)");
    if (!a.n_paths) die("no image and no folder (see --help)");
    struct stat st;
    if (a.watch && (a.n_paths != 1 || stat(a.paths[0], &st) || !S_ISDIR(st.st_mode))) die("--watch needs one folder");
    if (a.only_new && !a.watch) die("--new is for --watch");
    return a;
}

int main(int argc, char **argv) {
    state s = {.a = parse(argc, argv)};
    bvt_error err;
    if (s.a.cpus && bvt_use_cpus(s.a.cpus, s.a.threads, &err)) die("%s", err.text); /* before threads are made */
    if (bvt_open(s.a.model, &s.model, &err)) die("%s", err.text);
    const bvt_options options = {.threads = s.a.threads};
    if (bvt_session_create(s.model, &options, &s.session, &err)) die("%s", err.text);
    if (!bvt_get_preprocess(s.model).present)
        die("%s: the model does not say how an image becomes its input (compile it with --preprocess)", s.a.model);
    const bvt_model_info info = bvt_info(s.model);
    s.classes = info.output_rows * info.output_cols, s.labels = info.n_labels;
    s.input = calloc((size_t)info.input_rows * info.input_cols, sizeof *s.input);
    s.output = calloc(s.classes, sizeof *s.output);
    if (!s.input || !s.output) die("out of memory");
    const struct sigaction action = {.sa_handler = stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    for (uint32_t i = 0; i < s.a.n_paths && !finished(&s); i++) {
        struct stat st;
        if (!stat(s.a.paths[i], &st) && S_ISDIR(st.st_mode)) classify_folder(&s, s.a.paths[i]);
        else classify(&s, s.a.paths[i]);
    }
    bvt_session_destroy(s.session);
    bvt_close(s.model);
    free(s.input);
    free(s.output);
    free(s.a.paths);
    if (fflush(stdout)) die("stdout: %s", strerror(errno));
    return s.failed ? 1 : 0;
}
