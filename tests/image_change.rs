//! `commit -c`: a Dockerfile's instructions, each as docker takes it or refuses it.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::Guard;
use support::life::{Words, open, until};

/// What is told of an image's config, without what the container brings along unless it was changed.
fn config(text: &str) -> Value {
    let mut config: Value = serde_json::from_str(text).unwrap();
    let all = config.as_object_mut().unwrap();
    all.retain(|key, value| {
        let brought = match key.as_str() {
            "Cmd" => json!(["sleep", "1000"]),
            "Env" => json!(["H=/hh", "PATH=/bin"]),
            _ => Value::Null,
        };
        *value != brought && !matches!(value, Value::Null | Value::Bool(false)) && *value != "" && *value != json!({})
    });
    config
}

/// The lines were given to docker 20.10 as well, which answers the same but for STOPSIGNAL, which a newer docker takes.
#[test]
fn instructions_change_what_docker_changes() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["create", "--name", "box", "-e", "H=/hh", "-e", "PATH=/bin", "busybox", "sleep", "1000"]);
    let shell = |line: &str| json!(["/bin/sh", "-c", line]);
    let env = |more: &[&str]| json!({"Env": ([&["H=/hh", "PATH=/bin"], more].concat())});
    for (change, becomes) in [
        // An entrypoint takes the container's command away, unless the same change gives it one.
        (r#"ENTRYPOINT ["a"]"#, json!({"Entrypoint": ["a"], "Cmd": null})),
        ("ENTRYPOINT [\"a\"]\nCMD x", json!({"Entrypoint": ["a"], "Cmd": shell("x")})),
        ("CMD x\nENTRYPOINT [\"a\"]", json!({"Entrypoint": ["a"], "Cmd": shell("x")})),
        ("ENTRYPOINT []", json!({})),
        ("CMD []", json!({})),
        (r#"CMD ["a", b]"#, json!({"Cmd": shell(r#"["a", b]"#)})),
        ("ENV P=/x:$PATH", env(&["P=/x:/bin"])),
        ("ENV PATH=/x:$PATH", json!({"Env": ["H=/hh", "PATH=/x:/bin"]})),
        ("ENV P=/x:${PATH} Q=${NO:-d} R=${PATH:+yes}", env(&["P=/x:/bin", "Q=d", "R=yes"])),
        ("ENV A=1 B=$A", env(&["A=1", "B="])),
        (r#"ENV A='$PATH' B="$PATH" C=\$PATH"#, env(&["A=$PATH", "B=/bin", "C=$PATH"])),
        ("ENV x y z", env(&["x=y z"])),
        ("ENV A=b \\\n  C=d", env(&["A=b", "C=d"])),
        ("# words\n\n  env   A=b  \nLABEL x=y", json!({"Env": ["H=/hh", "PATH=/bin", "A=b"], "Labels": {"x": "y"}})),
        ("LABEL p=$PATH", json!({"Labels": {"p": "/bin"}})),
        (r#"LABEL "a b"=c"#, json!({"Labels": {"a b": "c"}})),
        ("USER ${PATH}", json!({"User": "/bin"})),
        (r#"USER "x""#, json!({"User": "x"})),
        ("WORKDIR $H/x", json!({"WorkingDir": "/hh/x"})),
        ("WORKDIR /a b", json!({"WorkingDir": "/a b"})),
        ("WORKDIR ../z", json!({"WorkingDir": "/z"})),
        ("EXPOSE 8000-8001 53/UDP", json!({"ExposedPorts": {"8000/tcp": {}, "8001/tcp": {}, "53/udp": {}}})),
        (r#"VOLUME ["/v", "$H"]"#, json!({"Volumes": {"/v": {}, "/hh": {}}})),
        ("ONBUILD RUN x", json!({"OnBuild": ["RUN x"]})),
        ("STOPSIGNAL SIGINT", json!({"StopSignal": "SIGINT"})),
        ("STOPSIGNAL 3", json!({"StopSignal": "3"})),
    ] {
        engine.ok(&["commit", "-c", change, "box", "made"]);
        let said = config(&engine.ok(&["inspect", "--type", "image", "-f", "{{json .Config}}", "made"]));
        let mut becomes = becomes;
        becomes.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        assert_eq!(said, becomes, "{change}");
    }
    engine.ok(&["rmi", "-f", "made"]);
    engine.ok(&["rm", "box"]);
    engine.ok(&["image", "prune", "-f"]);
    guard.check();
}

#[test]
fn what_docker_refuses_is_refused_by_name() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["create", "--name", "box", "busybox", "sleep", "1000"]);
    for (change, why) in [
        (r#"SHELL ["x"]"#, "shell is not a valid change command"),
        ("ARG x", "arg is not a valid change command"),
        ("MAINTAINER me", "maintainer is not a valid change command"),
        ("RUN x", "run is not a valid change command"),
        ("COPY a b", "copy is not a valid change command"),
        ("ADD a b", "add is not a valid change command"),
        ("FROM y", "from is not a valid change command"),
        ("FOO x", "foo is not a valid change command"),
        ("ENV A=b\nFOO x", "foo is not a valid change command"),
        ("# words", "an instruction and its arguments are wanted"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD ONBUILD x", "ONBUILD isn't allowed as an ONBUILD trigger"),
        ("ENV x", "NAME=VALUE is wanted"),
        ("ENV =x", "NAME=VALUE is wanted"),
        ("ENV A=b C", "NAME=VALUE is wanted"),
        ("ENV A=\"b", "a quote is not closed"),
        ("ENV A=${B", "`${` is not closed"),
        ("VOLUME [\"/v", "a quote is not closed"),
        ("VOLUME []", "an instruction and its arguments are wanted"),
        ("WORKDIR $NO", "it is empty"),
        ("EXPOSE $NO", "it is not a port"),
        ("EXPOSE 9-8", "it is not a port"),
        ("EXPOSE 80/foo", "it is not a port"),
        ("STOPSIGNAL FOO", "invalid signal: `FOO`"),
        ("HEALTHCHECK FOO", "Unknown type \"FOO\" in HEALTHCHECK (try CMD)"),
    ] {
        let done = engine.run(["commit", "-c", change, "box", "made"]);
        assert!(done.status == 1 && done.stderr.contains(why), "{change}: {} {}", done.status, done.stderr);
        assert!(done.stderr.contains("--change: ") && done.stderr.lines().count() == 1, "{}", done.stderr);
    }
    assert_eq!(engine.run(["inspect", "made"]).status, 1);
    engine.ok(&["rm", "box"]);
    guard.check();
}

/// The check of a committed image is what its containers are asked.
#[test]
fn a_committed_health_check_is_asked() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["run", "--name", "box", "busybox", "touch", "/well"]);
    let check = "HEALTHCHECK --interval=50ms --retries=100 CMD cat /well && test -e /up";
    engine.ok(&["commit", "-c", check, "-c", "CMD [\"sleep\", \"1000\"]", "box", "asks"]);
    engine.ok(&["run", "-d", "--name", "web", "asks"]);
    let health = || engine.inspect("web", "{{.State.Health.Status}} {{.Config.Healthcheck.Retries}}");
    until("it is asked", || engine.inspect("web", "{{len .State.Health.Log}}") != "0");
    assert_eq!(health(), "starting 100");
    engine.ok(&["exec", "web", "touch", "/up"]);
    until("it is healthy", || health() == "healthy 100");
    // And a later change takes it away.
    engine.ok(&["commit", "-c", "HEALTHCHECK NONE", "web", "mute"]);
    engine.ok(&["rm", "-f", "web"]);
    engine.ok(&["run", "-d", "--name", "web", "mute"]);
    assert!(!engine.ok(&["ps", "--format", "{{.Status}}"]).contains("health"));
    engine.ok(&["rm", "-f", "web", "box"]);
    engine.ok(&["rmi", "asks", "mute"]);
    guard.check();
}
