//! `events`: what has happened and what happens, in docker's words and docker's order.

#![allow(clippy::unwrap_used)]

mod support;

use support::life::open;
use support::{Engine, Guard};

#[track_caller]
fn ok(engine: &Engine, words: &[&str]) -> String {
    let done = engine.run(words);
    assert_eq!(done.status, 0, "{words:?}: {}{}", done.stdout, done.stderr);
    done.stdout
}

/// What has happened to `name` since the beginning.
fn past(engine: &Engine, name: &str, format: &str) -> Vec<String> {
    let filter = format!("container={name}");
    let words = ["events", "--since", "1970-01-01", "--until", "0s", "--filter", &filter, "--format", format];
    ok(engine, &words).lines().map(str::to_string).collect()
}

#[test]
fn a_life_in_dockers_words() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let polite = "trap 'exit 7' TERM; while :; do sleep 0.05; done";
    ok(&engine, &["create", "--name", "web", "-l", "a=1", "busybox", "sh", "-c", polite]);
    ok(&engine, &["start", "web"]);
    ok(&engine, &["exec", "web", "true"]);
    ok(&engine, &["pause", "web"]);
    ok(&engine, &["unpause", "web"]);
    ok(&engine, &["update", "--memory", "64m", "web"]);
    ok(&engine, &["restart", "web"]);
    ok(&engine, &["stop", "web"]);
    ok(&engine, &["rename", "web", "srv"]);
    ok(&engine, &["start", "srv"]);
    ok(&engine, &["rm", "-f", "srv"]);
    let actions = past(&engine, "web", "{{.Action}}");
    let expected = [
        "create",
        "start",
        "exec_create: true",
        "exec_start: true",
        "exec_die",
        "pause",
        "unpause",
        "update",
        // restart
        "kill",
        "die",
        "stop",
        "start",
        "restart", //
        "kill",
        "die",
        "stop",
    ];
    assert_eq!(actions, expected);
    assert_eq!(past(&engine, "srv", "{{.Action}}"), ["rename", "start", "kill", "die", "destroy"]);
    let died = past(&engine, "web", "{{.Action}} {{.Actor.Attributes.exitCode}} {{.Actor.Attributes.a}}");
    assert!(died.contains(&"die 7 1".to_string()), "{died:?}");
    guard.check();
}

#[test]
fn run_in_the_foreground_and_with_rm() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    assert_eq!(engine.run(["run", "--rm", "--name", "one", "busybox", "sh", "-c", "exit 3"]).status, 3);
    assert_eq!(past(&engine, "one", "{{.Action}}"), ["create", "start", "die", "destroy"]);
    let id = ok(&engine, &["run", "-d", "--rm", "--name", "two", "busybox", "true"]);
    while past(&engine, "two", "{{.Action}}").len() < 4 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(past(&engine, "two", "{{.Action}}"), ["create", "start", "die", "destroy"]);
    assert_eq!(past(&engine, "two", "{{.ID}}")[0], id.trim());
    guard.check();
}

/// What comes while somebody listens comes at once, and `--until` ends it.
#[test]
fn listening_and_filters() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    ok(&engine, &["run", "--rm", "--name", "before", "busybox", "true"]);
    let until = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3)).to_string();
    let words = ["events", "--until", &until, "--filter", "event=start", "--filter", "event=die", "-f", "label=x"];
    let listener = engine.spawn(engine.command(words));
    let json = engine.spawn(engine.command(["events", "--until", &until, "--format", "json"]));
    std::thread::sleep(std::time::Duration::from_millis(500));
    ok(&engine, &["run", "--rm", "--name", "web", "-l", "x=a b", "busybox", "true"]);
    ok(&engine, &["run", "--rm", "--name", "other", "busybox", "true"]);
    let done = listener.wait();
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!((done.status, lines.len()), (0, 2), "{}{}", done.stdout, done.stderr);
    assert!(lines[0].contains(" container start ") && lines[1].contains(" container die "), "{lines:?}");
    assert!(lines[1].contains("exitCode=0, image=busybox") && lines[1].ends_with("name=web, x=a b)"), "{lines:?}");
    let done = json.wait();
    let events: Vec<serde_json::Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 8, "{}", done.stdout);
    assert!(events.iter().all(|event| event["Type"] == "container" && event["timeNano"].as_i64() > Some(0)));
    assert_eq!(events[0]["Actor"]["Attributes"]["name"], "web");
    guard.check();
}

/// As docker 20.10 prints them: an image by its id, and by a name only when it is given one.
#[test]
fn images_networks_and_volumes() {
    let Some(engine) = open() else { return };
    // No guard: the link of a network that stays settles when it likes.
    ok(&engine, &["network", "create", "base"]);
    let archive = engine.text("saved.tar");
    let web = ok(&engine, &["create", "--name", "web", "--network", "base", "busybox", "true"]);
    ok(&engine, &["tag", "busybox", "other:1"]);
    ok(&engine, &["save", "-o", &archive, "busybox", "other:1"]);
    ok(&engine, &["rmi", "other:1"]);
    ok(&engine, &["load", "-i", &archive]);
    let made = ok(&engine, &["commit", "-m", "words", "web", "made:1"]);
    ok(&engine, &["export", "-o", &engine.text("web.tar"), "web"]);
    let imported = ok(&engine, &["import", &engine.text("web.tar"), "imported"]);
    ok(&engine, &["rmi", "made:1"]);
    let network = ok(&engine, &["network", "create", "net"]);
    ok(&engine, &["network", "connect", "net", "web"]);
    ok(&engine, &["network", "disconnect", "net", "web"]);
    ok(&engine, &["network", "rm", "net"]);
    ok(&engine, &["volume", "create", "data"]);
    ok(&engine, &["volume", "create", "data"]);
    ok(&engine, &["volume", "rm", "data"]);
    let told = |filters: &[&str], format: &str| -> Vec<String> {
        let words = [&["events", "--since", "1970-01-01", "--until", "0s", "--format", format], filters].concat();
        ok(&engine, &words).lines().map(str::to_string).collect()
    };
    let busybox = ok(&engine, &["image", "inspect", "-f", "{{.Id}}", "busybox"]);
    let [busybox, made, imported, network, web] = [&busybox, &made, &imported, &network, &web].map(|text| text.trim());
    let lines = told(&["-f", "type=image"], "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}");
    let expected = [
        format!("tag {busybox} other:1"),
        format!("save {busybox} {busybox}"),
        format!("untag {busybox} {busybox}"),
        format!("load {busybox} {busybox}"),
        format!("tag {made} made:1"),
        format!("tag {imported} imported:latest"),
        format!("import {imported} {imported}"),
        format!("untag {made} {made}"),
        format!("delete {made} {made}"),
    ];
    assert_eq!(lines, expected);
    let about =
        "{{.Action}} {{.Actor.Attributes.comment}} {{.Actor.Attributes.imageID}} {{.Actor.Attributes.imageRef}}";
    assert_eq!(told(&["-f", "event=commit", "-f", "container=web"], about), [format!("commit words {made} made:1")]);
    assert_eq!(told(&["-f", "event=export"], "{{.Type}} {{.ID}}"), [format!("container {web}")]);
    let lines = told(&["-f", "network=net"], "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.type}}");
    let expected = ["create", "connect", "disconnect", "destroy"].map(|action| format!("{action} {network} bridge"));
    assert_eq!(lines, expected);
    let lines = told(&["-f", "type=network", "-f", "event=connect"], "{{.Actor.Attributes.container}}");
    assert_eq!(lines, [web]);
    let lines = told(&["-f", "volume=data"], "{{.Type}} {{.Action}} {{.Actor.Attributes.driver}}");
    assert_eq!(lines, ["volume create local", "volume destroy local"]);
    assert_eq!(told(&["-f", "image=other", "-f", "type=image"], "{{.Action}}"), ["tag"]);
    // A network's and a volume's have no `status`, `id` and `from`, which are of old.
    let json = told(&["-f", "volume=data", "-f", "event=create"], "json");
    let event: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert!(event.get("status").is_none() && event.get("from").is_none(), "{event}");
    ok(&engine, &["rm", "web"]);
    ok(&engine, &["rmi", "imported"]);
}

/// What a start connects and mounts, in docker 20.10's words and order; and the same going.
#[test]
fn what_a_start_brings_along() {
    let Some(engine) = open() else { return };
    let network = ok(&engine, &["network", "create", "net"]);
    let words = ["--network", "net", "-v", "vol:/v:ro", "-v", "/anon", "busybox"];
    let id = ok(&engine, &[&["run", "-d", "--name", "web"], &words[..], &["sleep", "1000"]].concat());
    ok(&engine, &["stop", "-s", "KILL", "web"]);
    ok(&engine, &["rm", "web"]);
    let (network, id) = (network.trim(), id.trim());
    let told = |filter: &str, format: &str| -> Vec<String> {
        let words = ["events", "--since", "1970-01-01", "--until", "0s", "--format", format, "-f", filter];
        ok(&engine, &words).lines().map(str::to_string).collect()
    };
    let all = told("scope=local", "{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.container}}");
    let volumes = told("event=mount", "{{.Actor.ID}}");
    let [volume, anonymous] = &volumes[..] else { panic!("{volumes:?}") };
    assert!(volume == "vol" && anonymous.len() == 64, "{volumes:?}");
    let expected = [
        format!("container create {id} <no value>"),
        format!("network connect {network} {id}"),
        format!("volume mount vol {id}"),
        format!("volume mount {anonymous} {id}"),
        format!("container start {id} <no value>"),
        format!("container kill {id} <no value>"),
        format!("container die {id} <no value>"),
        format!("network disconnect {network} {id}"),
        format!("volume unmount vol {id}"),
        format!("volume unmount {anonymous} {id}"),
        format!("container stop {id} <no value>"),
        format!("container destroy {id} <no value>"),
    ];
    let from = all.iter().position(|line| line.starts_with("container create")).unwrap();
    assert_eq!(all[from..], expected);
    let mounted = told("event=mount", "{{json .Actor.Attributes}}");
    let attributes: serde_json::Value = serde_json::from_str(&mounted[0]).unwrap();
    let wanted = serde_json::json!({
        "container": id, "destination": "/v", "driver": "local", "propagation": "", "read/write": "false",
    });
    assert_eq!(attributes, wanted);
    // In the foreground the same.
    let status = engine.run([&["run", "--rm", "--name", "one"], &words[..], &["true"]].concat()).status;
    assert_eq!(status, 0);
    let all = told("scope=local", "{{.Type}} {{.Action}}");
    let expected = [
        "container create",
        "network connect",
        "volume mount",
        "volume mount",
        "container start",
        "container die",
        "network disconnect",
        "volume unmount",
        "volume unmount",
        "container destroy",
    ];
    assert_eq!(all[all.len() - 10..], expected);
    ok(&engine, &["network", "rm", "net"]);
}

#[test]
fn bad_words() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    for (words, text) in [
        (["events", "--since", "yesterday"], "--since: `yesterday`"),
        (["events", "--until", "x"], "--until: `x`"),
        (["events", "--filter", "nosuch=1"], "invalid filter 'nosuch'"),
        (["events", "--filter", "type=daemon"], "type=daemon"),
        (["events", "--format", "{{.Nope"], "template parsing error"),
    ] {
        let done = engine.run(words);
        assert!(done.status == 1 && done.stderr.contains(text), "{words:?}: {} {}", done.status, done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
    guard.check();
}
