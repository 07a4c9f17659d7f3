//! Sixty lines that docker's users type, in one sitting, with what docker answers: exit status, stdout and stderr. `*`
//! stands for what differs from run to run. `DOCKER=docker` runs the same sitting against docker, where one is installed
//! (with an image `busybox` in its store); what it answers differently is listed, and explained, in
//! `docker_lines/differences.txt`.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use support::{Done, Engine, Guard};

/// The line after `docker`, the exit status, stdout, stderr.
type Line = (&'static str, i32, &'static str, &'static str);

/// Docker's errors begin with `Error response from daemon: `, ours with `mydocker: `; what follows is compared.
const LINES: &[Line] = &[
    ("ps", 0, "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n", ""),
    ("ps -aq", 0, "", ""),
    ("run --rm busybox echo hi", 0, "hi\n", ""),
    ("run --rm busybox sh -c 'exit 3'", 3, "", ""),
    // PID 1 of a namespace is not killed from inside (`man 7 pid_namespaces`).
    ("run --rm busybox sh -c 'kill -9 $$'", 0, "", ""),
    ("run --rm busybox nosuch", 127, "", "*exec: \"nosuch\": executable file not found in $PATH*"),
    ("run --rm busybox /etc", 126, "", "*permission denied*"),
    (
        "run -d --name web --label a=1 --label b busybox sh -c 'echo out; echo err >&2; trap \"exit 4\" TERM; while :; do sleep 0.05; done'",
        0,
        "*\n",
        "",
    ),
    ("run -d --name web busybox true", 125, "", "*name*web*in use by container*"),
    ("run --name", 125, "", "*--name*"),
    ("run --nosuchflag busybox", 125, "", "*--nosuchflag*"),
    ("ps --format '{{.Names}} {{.State}} {{.Image}}'", 0, "web running busybox*\n", ""),
    ("ps --format '{{.Command}}'", 0, "\"sh -c 'echo out; ec…\"\n", ""),
    ("ps --format 'table {{.Names}}\\t{{.State}}'", 0, "NAMES     STATE\nweb       running\n", ""),
    ("ps --format '{{.Label \"a\"}} {{upper .Names}} {{.Names | upper | printf \"%5s|\"}}'", 0, "1 WEB   WEB|\n", ""),
    ("ps -q --filter name=we", 0, "*\n", ""),
    ("ps -q --filter name=^eb", 0, "", ""),
    ("ps -q --filter label=a=1", 0, "*\n", ""),
    ("ps -q --filter label=a=2", 0, "", ""),
    ("ps -q --filter status=exited", 0, "", ""),
    ("ps --filter nosuch=1", 1, "", "*nosuch*"),
    ("inspect -f '{{.State.Running}} {{.State.Status}} {{.State.ExitCode}}' web", 0, "true running 0\n", ""),
    ("inspect -f '{{json .Config.Labels}}' web", 0, "{\"a\":\"1\",\"b\":\"\"}\n", ""),
    ("inspect -f '{{index .Config.Labels \"a\"}}' web", 0, "1\n", ""),
    ("inspect -f '{{range .Config.Cmd}}{{println .}}{{end}}' web", 0, "sh\n-c\necho out*\n\n", ""),
    (
        "inspect -f '{{.Name}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.AutoRemove}}' web",
        0,
        "/web no false\n",
        "",
    ),
    ("inspect -f '{{if .State.Paused}}p{{else}}r{{end}}' web", 0, "r\n", ""),
    ("inspect -f '{{.Nope}}' web", 1, "*", "*template*Nope*"),
    ("inspect nope", 1, "[]\n", "*No such object: nope\n"),
    ("inspect --type container nope", 1, "[]\n", "*No such container: nope\n"),
    ("logs web", 0, "out\n", "err\n"),
    ("logs -n 0 web", 0, "", ""),
    ("logs nope", 1, "", "*No such container: nope\n"),
    ("exec web echo hi", 0, "hi\n", ""),
    ("exec web sh -c 'exit 9'", 9, "", ""),
    ("exec -e A=b web sh -c 'echo $A'", 0, "b\n", ""),
    ("exec -w /tmp web pwd", 0, "/tmp\n", ""),
    ("exec -u 65534 web id -u", 0, "65534\n", ""),
    ("exec web nosuch", 127, "*", "*nosuch*"),
    ("exec nope true", 1, "", "*No such container: nope\n"),
    ("exec web", 1, "", "*"),
    ("cp nope:/x /tmp", 1, "", "*No such container: nope\n"),
    ("cp web:/nope /tmp/x", 1, "", "*Could not find the file /nope*"),
    ("cp web:/a web:/b", 1, "", "*copying between containers is not supported\n"),
    ("cp /a /b", 1, "", "*must specify at least one container source\n"),
    ("cp web:/etc/passwd - | tar -tf -", 0, "passwd\n", ""),
    ("cp $FILES/theirs web:/tmp", 0, "", ""),
    ("exec web stat -c '%u %a' /tmp/theirs", 0, "0 750\n", ""),
    ("cp -a $FILES/theirs web:/tmp/", 0, "", ""),
    ("exec web stat -c '%u %a' /tmp/theirs #", 0, "1234 4750\n", ""),
    ("cp $FILES web:/tmp/passwd/", 0, "", ""),
    ("exec web ls /tmp/passwd", 0, "theirs\n", ""),
    ("cp $FILES/. web:/tmp/passwd", 0, "", ""),
    ("exec web ls /tmp/passwd", 0, "theirs\n", ""),
    ("cp $FILES/theirs web:/no/pe/x", 1, "", "*"),
    ("pause web", 0, "web\n", ""),
    ("ps --format '{{.Status}}'", 0, "Up * (Paused)\n", ""),
    ("exec web true", 1, "", "*paused, unpause the container before exec\n"),
    ("pause web", 1, "", "*already paused\n"),
    ("unpause web", 0, "web\n", ""),
    ("unpause web", 1, "", "*not paused\n"),
    ("rename web srv", 0, "", ""),
    ("rename nope x1", 1, "", "*No such container: nope\n"),
    ("port srv", 0, "", ""),
    (
        "rm srv",
        1,
        "",
        "*cannot remove container \"*srv\": container is running: stop the container before removing or force remove\n",
    ),
    ("kill -s FOO srv", 1, "", "*nvalid signal: *FOO*\n"),
    ("stop srv", 0, "srv\n", ""),
    ("inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}' srv", 0, "exited 4 0\n", ""),
    ("ps -a --format '{{.Status}}'", 0, "Exited (4) * ago\n", ""),
    ("exec srv true", 1, "", "*is not running\n"),
    ("kill srv", 1, "", "*cannot kill container: srv: container * is not running\n"),
    ("start srv nope", 1, "srv\n", "*No such container: nope\n*"),
    ("restart -t 0 srv", 0, "srv\n", ""),
    ("kill srv", 0, "srv\n", ""),
    ("wait srv", 0, "137\n", ""),
    ("rm srv", 0, "srv\n", ""),
    ("rm srv", 1, "", "*No such container: srv\n"),
    ("rm -f srv", 0, "", "*No such container: srv\n"),
    ("run -d --name srv --health-cmd true --health-interval 200ms busybox sleep 1000", 0, "*\n", ""),
    ("exec srv sleep 1.5", 0, "", ""),
    ("ps --format '{{.Status}}'", 0, "Up * (healthy)\n", ""),
    ("inspect -f '{{.State.Health.Status}} {{.State.Health.FailingStreak}}' srv", 0, "healthy 0\n", ""),
    ("rm -f srv", 0, "srv\n", ""),
    (
        "events --since 1m --until 0s --filter container=srv --filter event=exec_start --format '{{.Action}}'",
        0,
        "exec_start: sleep 1.5\n",
        "",
    ),
    (
        "events --since 1m --until 0s --filter container=srv --filter event=destroy --format '{{.Type}} {{.Action}}'",
        0,
        "*container destroy\n",
        "",
    ),
    ("create --name made busybox true", 0, "*\n", ""),
    ("ps -a --format '{{.Status}}'", 0, "Created\n", ""),
    ("start -a made", 0, "", ""),
    ("container ls -a --format '{{.Names}}'", 0, "made\n", ""),
    ("container prune -f", 0, "Deleted Containers:\n*\n\nTotal reclaimed space: 0B\n", ""),
    ("container prune -f", 0, "Total reclaimed space: 0B\n", ""),
];

/// `*` matches anything.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| matches(rest, &text[at..]))
}

/// What is known to differ: which docker, and the line.
fn known() -> Vec<(&'static str, &'static str)> {
    let text = include_str!("docker_lines/differences.txt");
    let heads = text.lines().filter(|line| !line.is_empty() && !line.starts_with([' ', '#']));
    heads.filter_map(|line| line.split_once(' ')).collect()
}

/// One line of the sitting, by a shell.
fn say(engine: &Engine, program: &std::ffi::OsStr, files: &std::path::Path, line: &str) -> Done {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("\"$0\" {line}")]).arg(program).stdin(std::process::Stdio::null());
    command.env("MYDOCKER_ROOT", engine.root()).env("MYDOCKER_NETWORK", "none").env("FILES", files);
    engine.finish(command)
}

#[test]
fn sixty_lines() {
    let Some(mut engine) = Engine::open() else { return };
    engine.keeps = true;
    let guard = Guard::new(engine.root());
    let docker = std::env::var("DOCKER").ok();
    let program = docker.clone().map_or(engine.command([""; 0]).get_program().to_owned(), Into::into);
    let files = engine.folder().join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("theirs"), "theirs").unwrap();
    std::os::unix::fs::chown(files.join("theirs"), Some(1234), Some(1234)).unwrap();
    std::fs::set_permissions(files.join("theirs"), std::fs::Permissions::from_mode(0o4750)).unwrap();
    assert!(LINES.len() >= 60);
    let (known, mut seen, mut differences) = (known(), Vec::new(), String::new());
    for (known, line) in &known {
        assert!(LINES.iter().any(|(other, ..)| other == line), "`{known} {line}` is none of the lines");
    }
    for (number, (line, status, stdout, stderr)) in LINES.iter().enumerate() {
        let done = say(&engine, &program, &files, line);
        let told = done.stderr.lines().filter(|line| !line.starts_with("hint:"));
        let told: String = told.map(|line| line.to_string() + "\n").collect();
        if done.status != *status || !matches(stdout, &done.stdout) || !matches(stderr, &told) {
            let got = format!("{} {:?} {told:?}", done.status, done.stdout);
            let number = number + 1;
            if docker.is_some() && known.iter().any(|(_, other)| other == line) {
                println!("{number}. {line}: differs, as is known: {got}");
                seen.push(*line);
                continue;
            }
            let expected = format!("{status} {stdout:?} {stderr:?}");
            differences.push_str(&format!("{number}. {line}\n   expected {expected}\n   got      {got}\n"));
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    if docker.is_some() {
        let gone: Vec<_> = known.iter().filter(|(which, line)| *which == "any" && !seen.contains(line)).collect();
        assert!(gone.is_empty(), "these differ no more: {gone:?}");
    }
    guard.check();
}
