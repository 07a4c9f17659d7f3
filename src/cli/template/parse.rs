//! From text to nodes.

use serde_json::Value;

#[derive(Debug)]
pub enum Node {
    Text(String),
    /// Its value is printed, unless it declares or sets a variable.
    Print(Pipeline),
    /// Conditions with their bodies, tried in order; the last body has none.
    If(Vec<(Option<Pipeline>, Vec<Node>)>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    Break,
    Continue,
}

/// `$x := a | b | c`.
#[derive(Debug)]
pub struct Pipeline {
    /// Names without the `$`, and whether they are new (`:=`).
    pub variables: Vec<String>,
    pub declares: bool,
    pub commands: Vec<Vec<Term>>,
}

/// One word of a command, with the fields that are taken of it.
#[derive(Debug)]
pub struct Term {
    pub base: Base,
    pub fields: Vec<String>,
}

#[derive(Debug)]
pub enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Function(String),
    Nested(Box<Pipeline>),
}

/// Nobody nests deeper, but an attacker.
const DEEPEST: usize = 64;

pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut parser = Parser { pieces: pieces(text)?, at: 0 };
    let nodes = parser.body(0, false)?;
    match parser.next() {
        None => Ok(nodes),
        Some(Piece::Action(words)) => Err(format!("unexpected {{{{{}}}}}", words.escape_debug())),
        Some(Piece::Text(_)) => Err("unexpected text".to_string()),
    }
}

#[derive(Clone)]
enum Piece {
    Text(String),
    Action(String),
}

/// Cuts at `{{` and `}}`; `{{-` and `-}}` eat the white space beside them.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let (mut rest, mut trim) = (text, false);
    while let Some(open) = rest.find("{{") {
        let mut before = if trim { rest[..open].trim_start() } else { &rest[..open] };
        let mut inner = &rest[open + 2..];
        if inner.starts_with('-') && inner[1..].starts_with(char::is_whitespace) {
            before = before.trim_end();
            inner = &inner[1..];
        }
        pieces.push(Piece::Text(unescape(before)));
        let comment = inner.trim_start().starts_with("/*");
        let end = if comment {
            let end = inner.find("*/").ok_or("unclosed comment")?;
            let close = inner[end + 2..].find("}}").ok_or("comment ends before closing delimiter")?;
            end + 2 + close
        } else {
            end_of_action(inner)?
        };
        let words = &inner[..end];
        trim = words.ends_with('-') && words[..words.len() - 1].ends_with(char::is_whitespace);
        let words = if trim { &words[..words.len() - 1] } else { words };
        if !comment {
            pieces.push(Piece::Action(words.trim().to_string()));
        }
        rest = &inner[end + 2..];
    }
    pieces.push(Piece::Text(unescape(if trim { rest.trim_start() } else { rest })));
    Ok(pieces)
}

/// Where `}}` stands outside of a string.
fn end_of_action(text: &str) -> Result<usize, String> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), c) if c == open && !escaped => quote = None,
            (None, '"' | '`') => quote = Some(c),
            (None, '}') if text[at..].starts_with("}}") => return Ok(at),
            _ => {}
        }
        escaped = false;
    }
    Err("unclosed action".to_string())
}

/// Docker turns `\t` and `\n` into what they mean.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

struct Parser {
    pieces: Vec<Piece>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Piece> {
        let piece = self.pieces.get(self.at).cloned();
        self.at += 1;
        piece
    }

    /// Nodes up to an `else`, an `end` or the end of the text, which stays.
    fn body(&mut self, depth: usize, in_loop: bool) -> Result<Vec<Node>, String> {
        if depth > DEEPEST {
            return Err("nested too deeply".to_string());
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.next() {
            let words = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(words) => words,
            };
            let (word, rest) = words.split_once(char::is_whitespace).unwrap_or((&words, ""));
            nodes.push(match word {
                "end" | "else" => {
                    self.at -= 1;
                    return Ok(nodes);
                }
                "if" => self.branches(rest, depth, in_loop)?,
                "with" | "range" => {
                    let range = word == "range";
                    let pipeline = pipeline(rest)?;
                    let body = self.body(depth + 1, in_loop || range)?;
                    let otherwise = if self.otherwise()?.is_some() {
                        let otherwise = self.body(depth + 1, in_loop)?;
                        self.end()?;
                        otherwise
                    } else {
                        vec![]
                    };
                    if range { Node::Range(pipeline, body, otherwise) } else { Node::With(pipeline, body, otherwise) }
                }
                "break" if in_loop => Node::Break,
                "continue" if in_loop => Node::Continue,
                "break" | "continue" => return Err(format!("{{{{{word}}}}} outside {{{{range}}}}")),
                _ => Node::Print(pipeline(&words)?),
            });
        }
        Ok(nodes)
    }

    fn branches(&mut self, condition: &str, depth: usize, in_loop: bool) -> Result<Node, String> {
        let mut branches = vec![(Some(pipeline(condition)?), self.body(depth + 1, in_loop)?)];
        while let Some(rest) = self.otherwise()? {
            let condition = rest.strip_prefix("if").map(pipeline).transpose()?;
            let last = condition.is_none();
            branches.push((condition, self.body(depth + 1, in_loop)?));
            if last {
                self.end()?;
                break;
            }
        }
        Ok(Node::If(branches))
    }

    /// The words behind `else`; `None` for `end`.
    fn otherwise(&mut self) -> Result<Option<String>, String> {
        match self.next() {
            Some(Piece::Action(words)) if words == "end" => Ok(None),
            Some(Piece::Action(words)) if words.starts_with("else") => Ok(Some(words[4..].trim().to_string())),
            _ => Err("unexpected EOF".to_string()),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        match self.otherwise()? {
            None => Ok(()),
            Some(_) => Err("expected end; found {{else}}".to_string()),
        }
    }
}

fn pipeline(text: &str) -> Result<Pipeline, String> {
    let mut words = Words { text, depth: 0 };
    let pipeline = words.pipeline()?;
    match words.text.trim_start() {
        "" => Ok(pipeline),
        rest => Err(format!("unexpected `{}`", rest.escape_debug())),
    }
}

/// The words of one action, read from the left.
struct Words<'a> {
    text: &'a str,
    depth: usize,
}

impl Words<'_> {
    fn eat(&mut self, token: &str) -> bool {
        let text = self.text.trim_start();
        let found = text.strip_prefix(token);
        self.text = found.unwrap_or(self.text);
        found.is_some()
    }

    fn pipeline(&mut self) -> Result<Pipeline, String> {
        let (variables, declares) = self.declaration();
        let mut commands = vec![self.command()?];
        while self.eat("|") {
            commands.push(self.command()?);
        }
        Ok(Pipeline { variables, declares, commands })
    }

    /// `$x :=`, `$k, $v :=`, `$x =`; nothing is eaten if there is none.
    fn declaration(&mut self) -> (Vec<String>, bool) {
        let before = self.text;
        let mut variables = Vec::new();
        while self.eat("$") {
            variables.push(self.name());
            if self.eat(":=") {
                return (variables, true);
            }
            if self.eat("=") {
                return (variables, false);
            }
            if !self.eat(",") {
                break;
            }
        }
        self.text = before;
        (vec![], false)
    }

    fn name(&mut self) -> String {
        let end = self.text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.text.len());
        let (name, rest) = self.text.split_at(end);
        self.text = rest;
        name.to_string()
    }

    fn command(&mut self) -> Result<Vec<Term>, String> {
        let mut terms = Vec::new();
        loop {
            let text = self.text.trim_start();
            if text.is_empty() || text.starts_with(['|', ')']) {
                break;
            }
            self.text = text;
            terms.push(self.term()?);
        }
        if terms.is_empty() { Err("missing value for command".to_string()) } else { Ok(terms) }
    }

    fn term(&mut self) -> Result<Term, String> {
        let first = self.text.chars().next().unwrap_or(' ');
        let base = match first {
            '.' => {
                let fields = self.fields();
                if fields.is_empty() {
                    self.text = &self.text[1..];
                }
                return Ok(Term { base: Base::Dot, fields });
            }
            '$' => {
                self.text = &self.text[1..];
                Base::Variable(self.name())
            }
            '(' => {
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err("nested too deeply".to_string());
                }
                self.text = &self.text[1..];
                let nested = self.pipeline()?;
                if !self.eat(")") {
                    return Err("unclosed left paren".to_string());
                }
                self.depth -= 1;
                Base::Nested(Box::new(nested))
            }
            '"' | '`' => Base::Literal(self.string(first)?),
            '0'..='9' | '-' | '+' => Base::Literal(self.number()?),
            _ => match self.name().as_str() {
                "" => return Err(format!("unexpected `{}`", first.escape_debug())),
                "true" => Base::Literal(true.into()),
                "false" => Base::Literal(false.into()),
                "nil" => Base::Literal(Value::Null),
                name if super::functions::known(name) => Base::Function(name.to_string()),
                name => return Err(format!("function \"{name}\" not defined")),
            },
        };
        Ok(Term { base, fields: self.fields() })
    }

    fn fields(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while let Some(rest) = self.text.strip_prefix('.') {
            if !rest.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                break;
            }
            self.text = rest;
            fields.push(self.name());
        }
        fields
    }

    fn string(&mut self, quote: char) -> Result<Value, String> {
        let mut escaped = false;
        for (at, c) in self.text.char_indices().skip(1) {
            match c {
                '\\' if quote == '"' && !escaped => {
                    escaped = true;
                    continue;
                }
                c if c == quote && !escaped => {
                    let (literal, rest) = self.text.split_at(at + 1);
                    self.text = rest;
                    return match quote {
                        // Go's escapes that scripts use are JSON's.
                        '"' => serde_json::from_str(literal).map_err(|_| "invalid string".to_string()),
                        _ => Ok(literal[1..literal.len() - 1].into()),
                    };
                }
                _ => escaped = false,
            }
        }
        Err("unterminated quoted string".to_string())
    }

    fn number(&mut self) -> Result<Value, String> {
        let end =
            self.text.find(|c: char| !c.is_ascii_alphanumeric() && !"+-._".contains(c)).unwrap_or(self.text.len());
        let (number, rest) = self.text.split_at(end);
        self.text = rest;
        let whole = number.parse::<i64>().ok().map(Value::from);
        whole.or_else(|| number.parse::<f64>().ok().map(Value::from)).ok_or(format!("bad number syntax: \"{number}\""))
    }
}
