//! The firewall in both of its flavours, without any, and while another program holds its lock; and the default network,
//! which is where all of that is met first.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;
use support::lab::{HOST, LOCALHOST, Lab, address, comes_through, ok, reaches, serve, sh};
use support::{Done, Guard, skip};

/// On this test's private host the firewall's programs are of that flavour; `false`: this machine lacks it.
fn flavour(name: &str) -> bool {
    let found = |program: &str| fs::canonicalize(format!("/usr/sbin/{program}"));
    let (Ok(now), Ok(wanted)) = (found("iptables-restore"), found(&format!("iptables-{name}-restore"))) else {
        skip(&format!("iptables-{name} is not installed"));
        return false;
    };
    if now != wanted {
        sh(&format!("mount --bind {} {}", wanted.display(), now.display()));
    }
    let works = Command::new("iptables").args(["-t", "nat", "-S"]).output().is_ok_and(|done| done.status.success());
    if !works {
        skip(&format!("this kernel has no tables for iptables-{name}"));
    }
    works
}

/// A /run of this test's own: the lock files in it are nobody else's.
fn private_run() {
    sh("mount -t tmpfs tmpfs /run");
}

fn both_ways(name: &str) {
    let Some(lab) = Lab::open() else { return };
    if !flavour(name) {
        return;
    }
    private_run();
    assert!(sh("iptables --version").contains(if name == "legacy" { "legacy" } else { "nf_tables" }));
    let _ = ok(&lab, &["run", "--rm", "--network", "none", "busybox", "true"]);
    // The tables themselves appear with the first rule and stay, empty.
    ok(&lab, &["network", "create", "first"]);
    ok(&lab, &["network", "rm", "first"]);
    let guard = Guard::new(lab.engine.root());
    let web = lab.start(&["-p", "8080:80", "-p", "8080:80/udp"]);
    serve(web.pid, 80, "web");
    let lan = Some(lab.lan.id());
    let works = |what: &str| {
        assert!(comes_through(lan, HOST, 8080, "web"), "{what}: the lan");
        assert!(comes_through(None, LOCALHOST, 8080, "web"), "{what}: 127.0.0.1");
        assert!(!reaches(lan, address(&web), 80, "web"), "{what}: the lan came in by the container's address");
    };
    works("at first");
    // A start that finds all there as it should be needs no program of the firewall's.
    let traced = lab.engine.folder().join("trace");
    let strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", traced.to_str().unwrap()];
    if Command::new("strace").arg("-V").output().is_ok() {
        let command = lab.engine.command_under(&strace, ["run", "--rm", "--network", "bridge", "busybox", "true"]);
        assert_eq!(lab.engine.finish(command).status, 0);
        let text = fs::read_to_string(&traced).unwrap();
        assert!(text.contains("execve(") && !text.contains("iptables"), "{text}");
        let words = ["run", "--rm", "--network", "bridge", "-p", "8081:80", "busybox", "true"];
        assert_eq!(lab.engine.finish(lab.engine.command_under(&strace, words)).status, 0);
        let text = fs::read_to_string(&traced).unwrap();
        // One call to lead the port in, one to take it out again.
        let calls = text.lines().filter(|line| line.contains("iptables-restore") && line.ends_with("= 0")).count();
        assert_eq!(calls, 2, "{text}");
        fs::remove_file(&traced).unwrap();
    }
    sh("for t in raw nat filter; do iptables -t $t -F; iptables -t $t -X; done");
    assert!(!reaches(lan, HOST, 8080, "web"), "a positive control: the flush cuts it off");
    assert_eq!(lab.run(&["busybox", "true"]).status, 0);
    works("after a flush and another start");
    web.stop();
    ok(&lab, &["network", "rm", "bridge"]);
    guard.check();
}

#[test]
fn the_flavour_nft() {
    both_ways("nft");
}

#[test]
fn the_flavour_legacy() {
    both_ways("legacy");
}

#[test]
fn without_iptables_there_is_a_clear_word() {
    let Some(lab) = Lab::open() else { return };
    ok(&lab, &["run", "--rm", "--network", "none", "busybox", "true"]);
    let real = fs::canonicalize("/usr/sbin/iptables-restore").unwrap();
    let guard = Guard::new(lab.engine.root());
    // The engine looks where administrators' programs are, whatever PATH its user has; so must `doctor`.
    let doctor = || {
        let mut command = lab.engine.command(["doctor"]);
        command.env("PATH", "/nowhere");
        let told = lab.engine.finish(command).stdout;
        told.lines().find(|line| line.contains(" iptables ")).unwrap_or_else(|| panic!("{told}")).trim().to_string()
    };
    let told = doctor();
    assert!(told.starts_with("✓ iptables") && told.contains("iptables-restore v1."), "{told}");
    let mount = format!("mount --bind /dev/null {}", real.display());
    sh(&mount);
    let told = doctor();
    assert!(told.starts_with("✗ iptables") && told.ends_with("not found"), "{told}");
    for words in [&["run", "--rm", "--network", "bridge", "busybox", "true"][..], &["network", "create", "lab"]] {
        let done = lab.engine.run(words);
        assert!(done.status != 0 && done.stderr.lines().count() == 1, "{words:?}: {}", done.stderr);
        assert!(done.stderr.contains("install iptables, or say --network none"), "{words:?}: {}", done.stderr);
    }
    assert!(!lab.engine.root().join("networks/lab").exists());
    assert_eq!(lab.engine.run(["run", "--rm", "--network", "none", "busybox", "true"]).status, 0);
    sh(&format!("umount {}", real.display()));
    assert_eq!(lab.run(&["busybox", "true"]).status, 0, "it works when it is installed");
    ok(&lab, &["network", "rm", "bridge"]);
    guard.check();
}

#[test]
fn another_programs_lock_is_waited_for_and_not_for_ever() {
    let Some(mut lab) = Lab::open() else { return };
    if !flavour("legacy") {
        return;
    }
    lab.engine.limit = crate::support::slow(Duration::from_secs(60));
    private_run();
    let guard = lab.guard();
    let hold = |seconds: &str| {
        let child = Command::new("flock").args(["-F", "/run/xtables.lock", "sleep", seconds]).spawn().unwrap();
        while Command::new("flock").args(["-n", "/run/xtables.lock", "true"]).status().unwrap().success() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    };
    let mut holder = hold("8");
    let done = lab.run(&["-p", "8080:80", "busybox", "true"]);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    assert!(done.took > Duration::from_secs(6), "it did not wait: {:?}", done.took);
    holder.wait().unwrap();
    let mut holder = hold("120");
    let short = |words: &[&str]| -> Done {
        let mut command = lab.engine.command(words);
        command.env("MYDOCKER_FIREWALL_PATIENCE", "1");
        lab.engine.finish(command)
    };
    let done = short(&["run", "--rm", "--network", "bridge", "-p", "8080:80", "busybox", "true"]);
    assert_eq!(done.status, 125, "{}", done.stderr);
    assert!(done.stderr.contains("has held the lock of the firewall's tables for 1 seconds"), "{}", done.stderr);
    let done = short(&["network", "create", "lab"]);
    assert!(done.status != 0 && done.stderr.contains("lock of the firewall's tables"), "{}", done.stderr);
    assert!(!lab.engine.root().join("networks/lab").exists() && !sh("ip -o link").contains("md-"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    let again = lab.run(&["-p", "8080:80", "--ip", "172.17.0.2", "busybox", "true"]);
    assert_eq!((again.status, again.stderr.as_str()), (0, ""), "address and port are free at once");
    guard.check();
}

#[test]
fn the_bridge_is_the_default() {
    let Some(lab) = Lab::open() else { return };
    let guard = lab.guard();
    let usual = |words: &[&str]| {
        let mut command = lab.engine.command(words);
        command.env_remove("MYDOCKER_NETWORK");
        lab.engine.finish(command)
    };
    let done = usual(&["run", "--rm", "busybox", "ip", "-4", "-o", "addr", "show", "eth0"]);
    assert!(done.status == 0 && done.stdout.contains("172.17.0.2/16"), "{}{}", done.stdout, done.stderr);
    let mut command = lab.engine.command(["run", "--rm", "busybox", "true"]);
    command.env("MYDOCKER_NETWORK", "host");
    let done = lab.engine.finish(command);
    assert!(done.status == 125 && done.stderr.contains("MYDOCKER_NETWORK: `host`"), "{}", done.stderr);
    // An ordinary user sees the whole plan, and nothing is done.
    let mut command = lab.engine.command_under(
        &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"],
        ["run", "--rm", "--dry-run", "-p", "8080:80", "busybox", "true"],
    );
    command.env_remove("MYDOCKER_NETWORK").env("MYDOCKER_ROOT", "/tmp/a-root-that-is-not-there");
    let done = lab.engine.finish(command);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    for line in
        ["ip link add ve", "iptables-restore --noflush --wait", "ip route add default via", "echo 1 > /proc/sys"]
    {
        assert!(done.stdout.contains(line), "no `{line}` in\n{}", done.stdout);
    }
    guard.check();
}

/// The rules are checked here; packets need SCTP in the kernel.
#[test]
fn a_port_of_sctp() {
    let Some(lab) = Lab::open() else { return };
    let guard = lab.guard();
    let web = lab.start(&["--name", "web", "-p", "7000:80/sctp", "-p", "127.0.0.1:7001:81/sctp", "-p", "7000:80"]);
    let here = address(&web);
    let rules = sh("iptables-save -t nat");
    let leads = |chain: &str, match_: &str, port: u16| {
        let to = format!("-j DNAT --to-destination {here}:{port}");
        let ours =
            |line: &&str| line.starts_with(&format!("-A {chain} ")) && line.ends_with(&to) && line.contains(match_);
        rules.lines().filter(ours).count()
    };
    for chain in ["MYDOCKER-DNAT", "MYDOCKER-LOCAL"] {
        assert_eq!(leads(chain, "-p sctp -m sctp --dport 7000 ", 80), 1, "{chain}\n{rules}");
        assert_eq!(leads(chain, "-p tcp -m tcp --dport 7000 ", 80), 1, "{chain}: tcp beside it\n{rules}");
    }
    assert_eq!(leads("MYDOCKER-LOCAL", "-d 127.0.0.1/32 -p sctp -m sctp --dport 7001 ", 81), 1, "{rules}");
    assert_eq!(leads("MYDOCKER-DNAT", "--dport 7001 ", 81), 0, "a port of 127.0.0.1 is led in from outside\n{rules}");
    assert!(ok(&lab, &["port", "web"]).contains("80/sctp -> 0.0.0.0:7000"));
    let done = lab.run(&["-p", "7000:80/sctp", "busybox", "true"]);
    assert!(done.status == 125 && done.stderr.contains("port is already allocated"), "{}", done.stderr);
    web.stop();
    assert!(!sh("iptables-save").contains("sctp"), "{}", sh("iptables-save"));
    guard.check();
    if !fs::read_to_string("/proc/net/protocols").unwrap().contains("SCTP") {
        skip("packets of SCTP: this kernel has none (CONFIG_IP_SCTP), only the rules were checked");
    }
}
