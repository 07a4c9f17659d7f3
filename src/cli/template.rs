//! Go's templates (`text/template`), as far as docker's users write them: `--format '{{.Names}}'`,
//! `inspect -f '{{range .Mounts}}{{println .Source}}{{end}}'`.
//!
//! Fields, variables, pipelines, `if` `else` `range` `with`, trimming `{{- -}}`, and the functions that docker adds
//! (`json join split upper lower title pad truncate println`). The data is JSON, so a struct and a map look alike; a
//! missing field is an error, a missing key of a map (labels, networks) is `<no value>`.

mod eval;
mod functions;
mod parse;

use serde_json::Value;

/// A template that has been understood.
#[derive(Debug)]
pub struct Template(Vec<parse::Node>);

/// What is wrong with a template, or with its use on this data.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("template parsing error: template: :1: {0}")]
pub struct Wrong(pub String);

impl Template {
    /// Parses `text`. A backslash and `t` or `n` mean a tab and a line end, as docker has it for `--format`.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        parse::parse(text).map(Self).map_err(Wrong)
    }

    /// The text that it makes of `data`.
    pub fn render(&self, data: &Value) -> Result<String, Wrong> {
        eval::render(&self.0, data).map_err(Wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn data() -> Value {
        json!({
            "Id": "abc", "Names": "web", "N": 3, "F": 1.5, "Yes": true, "Null": null, "Empty": [], "Text": "a,b",
            "State": {"Pid": 42, "Running": true, "Status": "running"},
            "Config": {"Cmd": ["sh", "-c", "a b"], "Labels": {"com.example": "x", "lab": "y"}},
            "Mounts": [{"Source": "/a", "RW": true}, {"Source": "/b", "RW": false}],
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
        })
    }

    #[test]
    fn templates_mean_what_go_means() {
        let cases = [
            ("plain", "plain"),
            ("{{.Id}} {{ .Names }}", "abc web"),
            ("{{.State.Pid}}", "42"),
            ("{{.Id}}{{/* nothing */}}!", "abc!"),
            (r"{{.Id}}\t{{.N}}\n", "abc\t3\n"),
            ("{{json .State}}", r#"{"Pid":42,"Running":true,"Status":"running"}"#),
            ("{{json .Id}}{{json .Null}}", "\"abc\"null"),
            ("{{.Config.Cmd}} {{.State}}", "[sh -c a b] map[Pid:42 Running:true Status:running]"),
            ("{{range .Mounts}}{{.Source}};{{end}}", "/a;/b;"),
            ("{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}} {{end}}", "0=/a 1=/b "),
            ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "com.example=x;lab=y;"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "172.17.0.2"),
            ("{{range .Config.Cmd}}{{println .}}{{end}}", "sh\n-c\na b\n"),
            ("{{index .Config.Cmd 1}}{{index .Config.Labels \"com.example\"}}", "-cx"),
            ("{{(index .Mounts 0).Source}}", "/a"),
            ("{{index .NetworkSettings.Networks \"bridge\" \"IPAddress\"}}", "172.17.0.2"),
            ("{{index .Config.Labels \"none\"}}|{{.Config.Labels.nope}}", "|<no value>"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if .Empty}}a{{else if eq .N 3}}b{{else}}c{{end}}", "b"),
            ("{{if and .Yes (gt .N 2)}}1{{end}}{{if or .Null .Yes}}2{{end}}{{if not .Null}}3{{end}}", "123"),
            ("{{if ne .Names \"web\"}}x{{else}}y{{end}}", "y"),
            ("{{if eq .Names \"a\" \"web\"}}x{{end}}", "x"),
            ("{{with .State}}{{.Status}}{{end}}{{with .Null}}x{{else}}-{{end}}", "running-"),
            ("{{join .Config.Cmd \" \"}}", "sh -c a b"),
            ("{{range split .Text \",\"}}[{{.}}]{{end}}", "[a][b]"),
            ("{{upper .Id}} {{.Names | upper | lower}} {{title .Id}}", "ABC web Abc"),
            ("{{printf \"%s-%d-%v-%q|%5s|%-5s|%%\" .Id .N .Yes .Id .Id .Id}}", "abc-3-true-\"abc\"|  abc|abc  |%"),
            ("{{len .Config.Cmd}} {{len .Id}}", "3 3"),
            ("{{truncate .Id 2}}|{{pad .Id 1 2}}|", "ab| abc  |"),
            ("{{$x := .Names}}{{range .Mounts}}{{$x}}{{$.Id}}{{end}}", "webabcwebabc"),
            ("{{$x := 1}}{{range .Mounts}}{{$x = 2}}{{end}}{{$x}}", "2"),
            ("a  {{- .Id -}}  b", "aabcb"),
            ("{{.F}} {{true}} {{3}} {{`raw`}} {{\"q\\n\"}}", "1.5 true 3 raw q\n"),
            ("{{print .Id .N 1}} {{html \"<\"}}", "abc3 1 &lt;"),
            ("{{range .Mounts}}{{if .RW}}{{continue}}{{end}}{{.Source}}{{break}}{{end}}", "/b"),
            ("{{.State.Pid | printf \"%05d\"}} {{printf \"%x\" 255}} {{slice .Id 1 2}}", "00042 ff b"),
        ];
        for (template, text) in cases {
            let rendered = Template::parse(template).and_then(|template| template.render(&data()));
            assert_eq!(rendered.as_deref(), Ok(text), "{template}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        let bad = [
            "{{",
            "{{.Id",
            "{{end}}",
            "{{if .Id}}",
            "{{range .Mounts}}",
            "{{nosuch .Id}}",
            "{{.Id}",
            "{{.Nope}}",
            "{{else}}",
            "{{.Id.Pid}}",
            "{{index .Config.Cmd 9}}",
            "{{index .Config.Cmd -1}}",
            "{{index .Id}}{{join .Id}}",
            "{{\"open}}",
            "{{(.Id}}",
            "{{.Id)}}",
            "{{$nope}}",
            "{{range .N}}{{end}}x{{lt .Id 3}}",
            "{{/* open",
            "{{break}}",
            "{{|}}",
            "{{.Id |}}",
            "{{printf}}",
            "{{truncate .Id -1}}",
            "{{slice .Id 2 1}}",
            "{{slice .Id 0 9}}",
            "{{len .N}}",
            "{{eq .Id}}",
        ];
        for template in bad {
            let rendered = Template::parse(template).and_then(|template| template.render(&data()));
            assert!(rendered.is_err(), "{template}: {rendered:?}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert!(Template::parse(&format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000))).is_err());
        assert!(Template::parse(&"{{if 1}}".repeat(100_000)).is_err());
        let wide = Template::parse("{{printf \"%999999999999s\" .Id}}").and_then(|template| template.render(&data()));
        assert!(wide.is_err());
        let wide = Template::parse("{{pad .Id 999999999999 1}}").and_then(|template| template.render(&data()));
        assert!(wide.is_err());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "(\\{\\{|\\}\\}|\\.|[a-z $|()\"`:=-]|[0-9]|if |range |end|else|index |printf |\\.Id|%|\\\\)*") {
            let _ = Template::parse(&text).and_then(|template| template.render(&data()));
        }
    }
}
