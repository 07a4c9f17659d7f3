/* The floor: the kernel objects of `mydocker run --rm --net none busybox true`, and nothing else. No flags, no spec, no
 * plan, no journal, no errors explained: what is left is what the kernel itself costs on this machine, and the measure
 * for `scripts/bench.sh start`.
 *
 *   cc -O2 -static -o floor scripts/floor.c && sudo ./floor LAYER SCRATCH /bin/true
 *
 * With FLOOR_BRIDGE=NAME in the environment also those of `--net bridge`: a veth pair with one end on that bridge, an
 * address (10.99.0.2/24) and a default route over 10.99.0.1.
 *
 * LAYER is an image's tree (/var/lib/mydocker/layers/.../diff), SCRATCH a folder in which it makes its own.
 * It follows the machine: cgroup v1 hierarchies where /sys/fs/cgroup has them, else the unified tree. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call) do { if ((call) < 0) { perror(#call); _exit(125); } } while (0)

static char id[32], box[512], root[600];
static const char *v1[16];
static int hierarchies;

static const char *in_root(const char *path)
{
	static char text[4][1024];
	static int turn;
	turn = (turn + 1) % 4;
	snprintf(text[turn], sizeof text[turn], "%s%s", root, path);
	return text[turn];
}

static const char *cgroup(const char *hierarchy, const char *file)
{
	static char text[1024];
	snprintf(text, sizeof text, "/sys/fs/cgroup/%s/mydocker/%s%s", hierarchy, id, file);
	return text;
}

static void put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	CHECK(fd);
	CHECK(write(fd, value, strlen(value)));
	close(fd);
}

static void get(const char *path, char *value, int size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd);
	int n = read(fd, value, size - 1);
	value[n > 0 ? n : 0] = 0;
	close(fd);
}

/* The hierarchies that carry controllers, each at a folder of its own (links to a co-mounted one are passed over). */
static void find_hierarchies(void)
{
	static const char *names[] = { "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
		"cpu,cpuacct", "net_cls", "net_prio", "net_cls,net_prio", "perf_event", "hugetlb" };
	char path[128];
	struct stat what;
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s/tasks", names[i]);
		if (access(path, F_OK))
			continue;
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s", names[i]);
		if (!lstat(path, &what) && !S_ISLNK(what.st_mode))
			v1[hierarchies++] = names[i];
	}
}

/* A new cpuset is empty, and nobody can join it, until it has its parent's processors and memory nodes. */
static void fill_cpuset(const char *from, const char *to)
{
	static const char *files[] = { "/cpuset.cpus", "/cpuset.mems" };
	char value[256], path[1024];
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "%s%s", from, files[i]);
		get(path, value, sizeof value);
		snprintf(path, sizeof path, "%s%s", to, files[i]);
		put(path, value);
	}
}

static void make_cgroups(void)
{
	char parent[256], top[256];
	if (!hierarchies) {
		mkdir("/sys/fs/cgroup/mydocker", 0755);
		CHECK(mkdir(cgroup(".", ""), 0755));
		return;
	}
	for (int i = 0; i < hierarchies; i++) {
		int cpuset = !strcmp(v1[i], "cpuset");
		snprintf(top, sizeof top, "/sys/fs/cgroup/%s", v1[i]);
		snprintf(parent, sizeof parent, "/sys/fs/cgroup/%s/mydocker", v1[i]);
		if (!mkdir(parent, 0755) && cpuset)
			fill_cpuset(top, parent);
		CHECK(mkdir(cgroup(v1[i], ""), 0755));
		if (cpuset)
			fill_cpuset(parent, cgroup(v1[i], ""));
	}
}

static void mount_cgroups(void)
{
	char path[128];
	unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME | MS_RDONLY;
	if (!hierarchies) {
		CHECK(mount("cgroup", in_root("/sys/fs/cgroup"), "cgroup2", flags, NULL));
		return;
	}
	CHECK(mount("tmpfs", in_root("/sys/fs/cgroup"), "tmpfs", flags & ~MS_RDONLY, "mode=755"));
	for (int i = 0; i < hierarchies; i++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s", v1[i]);
		CHECK(mkdir(in_root(path), 0755));
		CHECK(mount("cgroup", in_root(path), "cgroup", flags, v1[i]));
	}
	CHECK(mount(NULL, in_root("/sys/fs/cgroup"), NULL, flags | MS_REMOUNT | MS_BIND, NULL));
}

static void seal(void)
{
	static const char *masked[] = { "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware" };
	static const char *read_only[] = { "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger" };
	struct stat what;
	for (unsigned i = 0; i < sizeof masked / sizeof *masked; i++) {
		if (stat(masked[i], &what))
			continue;
		if (S_ISDIR(what.st_mode))
			CHECK(mount("tmpfs", in_root(masked[i]), "tmpfs", MS_RDONLY, "size=0k,nr_inodes=2"));
		else
			CHECK(mount(in_root("/dev/null"), in_root(masked[i]), NULL, MS_BIND, NULL));
	}
	for (unsigned i = 0; i < sizeof read_only / sizeof *read_only; i++) {
		unsigned long flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
		if (access(read_only[i], F_OK))
			continue;
		CHECK(mount(in_root(read_only[i]), in_root(read_only[i]), NULL, MS_BIND | MS_REC, NULL));
		CHECK(mount(NULL, in_root(read_only[i]), NULL, flags, NULL));
	}
}

static void furnish(const char *layer)
{
	static const struct { const char *name; int major, minor; } nodes[] = { { "/dev/null", 1, 3 },
		{ "/dev/zero", 1, 5 }, { "/dev/full", 1, 7 }, { "/dev/random", 1, 8 }, { "/dev/urandom", 1, 9 },
		{ "/dev/tty", 5, 0 } };
	static const char *links[][2] = { { "/proc/self/fd", "/dev/fd" }, { "/proc/self/fd/0", "/dev/stdin" },
		{ "/proc/self/fd/1", "/dev/stdout" }, { "/proc/self/fd/2", "/dev/stderr" }, { "pts/ptmx", "/dev/ptmx" },
		{ "/proc/kcore", "/dev/core" } };
	static const char *etc[] = { "hosts", "hostname", "resolv.conf" };
	unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	char text[2048], from[600];

	snprintf(text, sizeof text, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", layer, box, box);
	CHECK(mount("overlay", root, "overlay", 0, text));
	CHECK(mount("proc", in_root("/proc"), "proc", safe, NULL));
	CHECK(mount("tmpfs", in_root("/dev"), "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	CHECK(mkdir(in_root("/dev/pts"), 0755));
	CHECK(mount("devpts", in_root("/dev/pts"), "devpts", MS_NOSUID | MS_NOEXEC,
		"newinstance,ptmxmode=0666,mode=0620,gid=5"));
	CHECK(mkdir(in_root("/dev/shm"), 0755));
	CHECK(mount("shm", in_root("/dev/shm"), "tmpfs", safe, "mode=1777,size=67108864"));
	CHECK(mkdir(in_root("/dev/mqueue"), 0755));
	CHECK(mount("mqueue", in_root("/dev/mqueue"), "mqueue", safe, NULL));
	CHECK(mount("sysfs", in_root("/sys"), "sysfs", safe | MS_RDONLY, NULL));
	mount_cgroups();
	for (int i = 0; i < 3; i++) {
		snprintf(from, sizeof from, "%s/%s", box, etc[i]);
		snprintf(text, sizeof text, "/etc/%s", etc[i]);
		CHECK(mount(from, in_root(text), NULL, MS_BIND | MS_REC, NULL));
	}
	for (int i = 0; i < 6; i++)
		CHECK(mknod(in_root(nodes[i].name), S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
	for (int i = 0; i < 6; i++)
		CHECK(symlink(links[i][0], in_root(links[i][1])));
}

static void confine(void)
{
	unsigned long long keep = 0xa80425fb; /* docker's fourteen */
	gid_t groups[] = { 0, 10 };
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { keep, keep, 0 }, { 0, 0, 0 } };
	for (int i = 0; i < 64; i++)
		if (!(keep >> i & 1) && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0)
			break;
	CHECK(setgroups(2, groups));
	CHECK(setresgid(0, 0, 0));
	CHECK(setresuid(0, 0, 0));
	CHECK(syscall(SYS_capset, &header, data));
}

/* One netlink message: header, fixed part, attributes; sent, and answered with 0. */
static char message[1024];

static void *begin(int type, int flags, int size)
{
	struct nlmsghdr *head = (void *)message;
	memset(message, 0, sizeof message);
	head->nlmsg_type = type;
	head->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	head->nlmsg_len = NLMSG_LENGTH(size);
	return NLMSG_DATA(head);
}

static struct rtattr *put_attr(int type, const void *data, int size)
{
	struct nlmsghdr *head = (void *)message;
	struct rtattr *attr = (void *)(message + NLMSG_ALIGN(head->nlmsg_len));
	attr->rta_type = type;
	attr->rta_len = RTA_LENGTH(size);
	if (data)
		memcpy(RTA_DATA(attr), data, size);
	head->nlmsg_len = NLMSG_ALIGN(head->nlmsg_len) + RTA_ALIGN(attr->rta_len);
	return attr;
}

static void close_attr(struct rtattr *attr)
{
	attr->rta_len = message + ((struct nlmsghdr *)message)->nlmsg_len - (char *)attr;
}

static void finish(int fd)
{
	struct { struct nlmsghdr head; struct nlmsgerr error; char rest[1024]; } answer;
	CHECK(send(fd, message, ((struct nlmsghdr *)message)->nlmsg_len, 0));
	CHECK(recv(fd, &answer, sizeof answer, 0));
	if (answer.error.error) {
		fprintf(stderr, "netlink: %s\n", strerror(-answer.error.error));
		_exit(125);
	}
}

/* One end on the bridge and up, the other as eth0 in the namespace of `pid`. */
static void plug_in(const char *bridge, int pid)
{
	char name[16];
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), master = if_nametoindex(bridge);
	CHECK(fd);
	snprintf(name, sizeof name, "fl%d", getpid());
	struct ifinfomsg *info = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof *info);
	info->ifi_flags = info->ifi_change = IFF_UP;
	put_attr(IFLA_IFNAME, name, strlen(name) + 1);
	put_attr(IFLA_MASTER, &master, sizeof master);
	struct rtattr *link = put_attr(IFLA_LINKINFO, NULL, 0);
	put_attr(IFLA_INFO_KIND, "veth", 4);
	struct rtattr *data = put_attr(IFLA_INFO_DATA, NULL, 0);
	struct ifinfomsg nobody = { 0 };
	struct rtattr *peer = put_attr(VETH_INFO_PEER, &nobody, sizeof nobody);
	put_attr(IFLA_IFNAME, "eth0", 5);
	put_attr(IFLA_NET_NS_PID, &pid, sizeof pid);
	close_attr(peer);
	close_attr(data);
	close_attr(link);
	finish(fd);
	close(fd);
}

static void address_and_route(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), eth = if_nametoindex("eth0");
	in_addr_t own = inet_addr("10.99.0.2"), gateway = inet_addr("10.99.0.1");
	CHECK(fd);
	struct ifaddrmsg *addr = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof *addr);
	addr->ifa_family = AF_INET;
	addr->ifa_prefixlen = 24;
	addr->ifa_index = eth;
	put_attr(IFA_LOCAL, &own, sizeof own);
	put_attr(IFA_ADDRESS, &own, sizeof own);
	finish(fd);
	struct ifinfomsg *info = begin(RTM_NEWLINK, 0, sizeof *info);
	info->ifi_index = eth;
	info->ifi_flags = info->ifi_change = IFF_UP;
	finish(fd);
	struct rtmsg *route = begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof *route);
	route->rtm_family = AF_INET;
	route->rtm_table = RT_TABLE_MAIN;
	route->rtm_protocol = RTPROT_STATIC;
	route->rtm_type = RTN_UNICAST;
	put_attr(RTA_GATEWAY, &gateway, sizeof gateway);
	finish(fd);
	close(fd);
}

static const char *bridge;
static int plugged[2];

static void child(const char *layer, char **argv)
{
	static char *env[] = { "PATH=/bin", "HOME=/root", NULL };
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	umask(0);
	for (int i = 0; i < hierarchies; i++)
		put(cgroup(v1[i], "/tasks"), "0");
	CHECK(unshare(CLONE_NEWCGROUP));
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	furnish(layer);
	CHECK(sethostname(id, strlen(id)));
	put(in_root("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "0");
	put(in_root("/proc/sys/net/ipv4/ping_group_range"), "0 2147483647");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(ioctl(fd, SIOCSIFFLAGS, &lo));
	close(fd);
	seal();
	if (bridge) {
		char byte;
		CHECK(read(plugged[0], &byte, 1));
		address_and_route();
	}
	CHECK(chdir(root));
	CHECK(syscall(SYS_pivot_root, ".", "."));
	CHECK(umount2(".", MNT_DETACH));
	CHECK(chdir("/"));
	CHECK(setsid());
	confine();
	umask(022);
	execve(argv[0], argv, env);
	perror(argv[0]);
	_exit(127);
}

int main(int argc, char **argv)
{
	static const char *folders[] = { "rootfs", "upper", "work" }, *files[] = { "hosts", "hostname", "resolv.conf" };
	char text[700];
	int status, cgroup_fd;
	if (argc < 4)
		return fprintf(stderr, "usage: floor LAYER SCRATCH PROGRAM [ARG...]\n"), 2;
	snprintf(id, sizeof id, "floor%d", getpid());
	snprintf(box, sizeof box, "%s/%s", argv[2], id);
	snprintf(root, sizeof root, "%s/rootfs", box);
	CHECK(mkdir(box, 0700));
	for (int i = 0; i < 3; i++) {
		snprintf(text, sizeof text, "%s/%s", box, folders[i]);
		CHECK(mkdir(text, 0755));
		snprintf(text, sizeof text, "%s/%s", box, files[i]);
		put(text, "127.0.0.1\tlocalhost\n");
	}
	bridge = getenv("FLOOR_BRIDGE");
	if (bridge)
		CHECK(pipe2(plugged, O_CLOEXEC));
	find_hierarchies();
	make_cgroups();
	struct clone_args args = { .exit_signal = SIGCHLD,
		.flags = CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET };
	if (!hierarchies) {
		CHECK(cgroup_fd = open(cgroup(".", ""), O_PATH | O_DIRECTORY | O_CLOEXEC));
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = cgroup_fd;
	}
	long pid = syscall(SYS_clone3, &args, sizeof args);
	CHECK(pid);
	if (!pid)
		child(argv[1], argv + 3);
	if (bridge) {
		plug_in(bridge, pid);
		CHECK(write(plugged[1], "", 1));
	}
	CHECK(waitpid(pid, &status, 0));
	if (!hierarchies)
		CHECK(rmdir(cgroup(".", "")));
	for (int i = 0; i < hierarchies; i++)
		CHECK(rmdir(cgroup(v1[i], "")));
	snprintf(text, sizeof text, "%s/work/work", box);
	rmdir(text);
	for (int i = 0; i < 3; i++) {
		snprintf(text, sizeof text, "%s/%s", box, files[i]);
		unlink(text);
		snprintf(text, sizeof text, "%s/%s", box, folders[i]);
		CHECK(rmdir(text));
	}
	CHECK(rmdir(box));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
