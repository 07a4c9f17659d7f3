//! Programs that people really serve with: python's web server from a Debian image, fetched by curl from the host, from
//! another container, and by a neighbour on a wire with an MTU of 1400. The image is made once by `mmdebstrap` and kept
//! under `target/tmp`; takes minutes, so it is not run by default: `cargo test --test net_programs -- --ignored`

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};
use support::debian::debian;
use support::lab::{Lab, address, settle, sh};
use support::skip;

/// Serves a file of a million bytes, and tells how many came.
const SERVE: &str = r#"
    mkdir -p /w/cgi-bin; cd /w; head -c 1000000 /dev/urandom > big; sha256sum < big > sum
    printf '#!/usr/bin/python3\nimport hashlib, sys\nprint()\nprint(hashlib.sha256(sys.stdin.buffer.read(1000000)).hexdigest())\n' > cgi-bin/sum
    chmod -R a+rX . ; chmod 755 cgi-bin/sum; exec python3 -m http.server --cgi 8000
"#;

#[test]
#[ignore = "takes minutes, and a Debian mirror once"]
fn pythons_web_server_serves_everybody() {
    let flags = ["--variant=essential", "--include=python3-minimal,libpython3-stdlib"];
    let Some(archive) = debian("debian-python.tar", &flags) else { return };
    let Some(mut lab) = Lab::open() else { return };
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("curl is not installed");
    }
    lab.engine.limit = support::slow(Duration::from_secs(120));
    lab.engine.output(["import", archive.to_str().unwrap(), "debian:python"]);
    let guard = lab.guard();
    // The image, too: python as it lies there writes nothing down.
    let words = ["run", "--rm", "-i", "--network", "bridge", "-p", "8080:8000", "debian:python", "sh", "-ec", SERVE];
    let web = settle(lab.engine.start(words));
    let here = address(&web);
    let end = Instant::now() + support::slow(Duration::from_secs(30));
    while !Command::new("curl")
        .args(["-sf", "-o", "/dev/null", "http://127.0.0.1:8080/sum"])
        .status()
        .unwrap()
        .success()
    {
        assert!(Instant::now() < end, "nobody serves");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mtu = sh(&format!("nsenter -t {} -n ip link show eth0", web.pid));
    assert!(mtu.contains("mtu 1400"), "{mtu}");
    let file = lab.engine.text("up");
    sh(&format!("head -c 1000000 /dev/urandom > {file}"));
    let ours = sh(&format!("sha256sum < {file}")).split(' ').next().unwrap().to_string();
    // A megabyte each way.
    let both = |url: &str| {
        format!(
            "curl -sf --max-time 20 {url}/big | sha256sum | cut -d\" \" -f1; curl -sf --max-time 20 {url}/sum | cut -d\" \" -f1; \
             curl -sf --max-time 20 --data-binary @{file} {url}/cgi-bin/sum"
        )
    };
    let whole = |who: &str, text: &str| {
        let lines: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(lines.len(), 3, "{who}: {text}");
        assert_eq!((lines[0], lines[2]), (lines[1], ours.as_str()), "{who}: what came is not what was sent");
    };
    whole("the host by 127.0.0.1", &sh(&both("http://127.0.0.1:8080")));
    whole("the host by its address", &sh(&both("http://192.0.2.1:8080")));
    whole("the neighbour", &lab.in_lan(&both("http://192.0.2.1:8080")));
    // Another container: python's own client.
    let script = "import hashlib, sys, urllib.request as u; url = sys.argv[1]; print(hashlib.sha256(u.urlopen(url + '/big').read()).hexdigest()); \
                  print(u.urlopen(url + '/sum').read().split()[0].decode()); data = open('/up', 'rb').read(); \
                  print(u.urlopen(url + '/cgi-bin/sum', data).read().decode())";
    for url in [format!("http://{here}:8000"), "http://192.0.2.1:8080".to_string()] {
        let volume = format!("{file}:/up:ro");
        let done = lab.run(&["-v", &volume, "debian:python", "python3", "-c", script, &url]);
        assert_eq!(done.status, 0, "{url}: {}", done.stderr);
        whole(&url, &done.stdout);
    }
    web.stop();
    guard.check();
}
