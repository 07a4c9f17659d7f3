//! `mydocker network inspect --graph`: a network as the kernel has it wired, as text or as a picture (`-o file.svg`).

use crate::network::{Graph, Port};

/// As text: the bridge, and a branch for each of its ports.
pub fn text(graph: &Graph) -> String {
    let mut text = format!("network {}\n", graph.network);
    if graph.state.is_empty() {
        return text + &format!("└── {}: there is no such bridge (it comes with the next container)\n", graph.bridge);
    }
    text += &format!("└── bridge {} ({}) {}\n", graph.bridge, graph.state, graph.addresses.join(" "));
    for route in &graph.routes {
        text += &format!("    ├── route {route}\n");
    }
    for (number, port) in graph.ports.iter().enumerate() {
        let last = number + 1 == graph.ports.len();
        let (branch, rest) = if last { ("└──", "   ") } else { ("├──", "│  ") };
        text += &format!("    {branch} port {}", port.link);
        for (number, line) in card(port).iter().enumerate() {
            text += &if number == 0 { format!(" ── {line}\n") } else { format!("    {rest}     {line}\n") };
        }
    }
    let mut table = "";
    for (name, rule) in &graph.rules {
        if name != table {
            text += &format!("table {name}\n");
            table = name;
        }
        text += &format!("    {rule}\n");
    }
    text
}

/// The other end of a port's cable, in lines.
fn card(port: &Port) -> Vec<String> {
    let Some(card) = &port.card else { return vec![format!("container {}: its other end is gone", port.container)] };
    let mut lines = vec![format!("{} of container {}", card.name, port.container), card.mac.clone()];
    lines.extend(card.addresses.iter().cloned());
    lines.extend(card.routes.iter().map(|route| format!("route {route}")));
    lines
}

/// As a picture: the bridge on top, a cable down to each container, the rules below.
pub fn svg(graph: &Graph) -> String {
    const WIDE: usize = 300;
    const LINE: usize = 16;
    let boxes: Vec<Vec<String>> = graph.ports.iter().map(card).collect();
    let tall = boxes.iter().map(Vec::len).max().unwrap_or(0) * LINE + 16;
    let rules: Vec<String> = graph.rules.iter().map(|(table, rule)| format!("{table}: {rule}")).collect();
    let longest = rules.iter().map(|rule| rule.chars().count()).max().unwrap_or(0);
    let wide = (boxes.len().max(2) * WIDE).max(longest * 7 + 40);
    let head: Vec<String> = [format!("bridge {} of network {}", graph.bridge, graph.network), graph.state.clone()]
        .into_iter()
        .chain(graph.addresses.iter().cloned())
        .chain(graph.routes.iter().map(|route| format!("route {route}")))
        .collect();
    let (top, below) = (head.len() * LINE + 16, 70);
    let mut body = frame(20, 20, wide - 40, top, &head, "#dbe9f6");
    for (number, (lines, port)) in boxes.iter().zip(&graph.ports).enumerate() {
        let (x, y) = (20 + number * WIDE, 20 + top + below);
        let middle = x + 130;
        body += &format!("<line x1=\"{middle}\" y1=\"{}\" x2=\"{middle}\" y2=\"{y}\" stroke=\"#456\"/>\n", 20 + top);
        body += &label(middle + 6, 20 + top + below / 2, &port.link);
        body += &frame(x, y, WIDE - 40, tall, lines, "#e7f3e1");
    }
    let mut y = 20 + top + below + tall + 30;
    for rule in &rules {
        body += &label(20, y, rule);
        y += LINE;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{}\" font-family=\"monospace\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        y + 10
    )
}

fn frame(x: usize, y: usize, wide: usize, tall: usize, lines: &[String], colour: &str) -> String {
    let mut text = format!(
        "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{tall}\" rx=\"4\" fill=\"{colour}\" stroke=\"#456\"/>\n"
    );
    for (number, line) in lines.iter().enumerate() {
        text += &label(x + 8, y + 20 + number * 16, line);
    }
    text
}

fn label(x: usize, y: usize, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x}\" y=\"{y}\">{text}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Card;

    #[test]
    fn text_and_picture() {
        let card = |name: &str, ip: &str| Card {
            name: name.into(),
            mac: "02:42:0a:07:00:02".into(),
            addresses: vec![ip.into()],
            routes: vec!["default via 10.7.0.1 dev eth0".into()],
        };
        let port = |link: &str, who: &str, card| Port { link: link.into(), container: who.into(), card };
        let graph = Graph {
            network: "lab".into(),
            bridge: "md-1".into(),
            state: "UP, 02:42:0a:07:00:01, mtu 1500".into(),
            addresses: vec!["10.7.0.1/24".into()],
            ports: vec![port("ve1", "web", Some(card("eth0", "10.7.0.2/24"))), port("ve2", "<gone>", None)],
            routes: vec!["10.7.0.0/24 dev md-1".into()],
            rules: vec![("nat".into(), "-A MYDOCKER-NAT -s 10.7.0.0/24 ! -o md-1 -j MASQUERADE".into())],
        };
        insta::assert_snapshot!(text(&graph), @r"
        network lab
        └── bridge md-1 (UP, 02:42:0a:07:00:01, mtu 1500) 10.7.0.1/24
            ├── route 10.7.0.0/24 dev md-1
            ├── port ve1 ── eth0 of container web
            │       02:42:0a:07:00:02
            │       10.7.0.2/24
            │       route default via 10.7.0.1 dev eth0
            └── port ve2 ── container <gone>: its other end is gone
        table nat
            -A MYDOCKER-NAT -s 10.7.0.0/24 ! -o md-1 -j MASQUERADE
        ");
        let svg = svg(&graph);
        assert!(svg.starts_with("<svg ") && svg.contains("&lt;gone&gt;") && svg.ends_with("</svg>\n"), "{svg}");
        assert_eq!(svg.matches("<line ").count(), 2);
    }
}
