//! From nodes and data to text.

use super::functions::{call, print, truth};
use super::parse::{Base, Node, Pipeline, Term};
use serde_json::Value;

/// How a body ended.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Machine<'a> {
    data: &'a Value,
    variables: Vec<(String, Value)>,
    out: String,
}

/// More than any table; a template of a stranger must not fill the memory.
const LARGEST: usize = 64 << 20;

pub fn render(nodes: &[Node], data: &Value) -> Result<String, String> {
    let mut machine = Machine { data, variables: vec![], out: String::new() };
    machine.body(nodes, data)?;
    Ok(machine.out)
}

impl Machine<'_> {
    fn body(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        let scope = self.variables.len();
        for node in nodes {
            let flow = self.node(node, dot)?;
            if self.out.len() > LARGEST {
                return Err("the output is too long".to_string());
            }
            if flow != Flow::On {
                self.variables.truncate(scope);
                return Ok(flow);
            }
        }
        self.variables.truncate(scope);
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.value(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.out.push_str(&print(&value));
                } else {
                    self.assign(pipeline, vec![value])?;
                }
            }
            Node::If(branches) => {
                for (condition, body) in branches {
                    if condition
                        .as_ref()
                        .map_or(Ok(true), |condition| Ok::<_, String>(truth(&self.value(condition, dot)?)))?
                    {
                        return self.body(body, dot);
                    }
                }
            }
            Node::With(pipeline, body, otherwise) => {
                let scope = self.variables.len();
                let value = self.value(pipeline, dot)?;
                if !pipeline.variables.is_empty() {
                    self.assign(pipeline, vec![value.clone()])?;
                }
                let flow = if truth(&value) { self.body(body, &value) } else { self.body(otherwise, dot) };
                self.variables.truncate(scope);
                return flow;
            }
            Node::Range(pipeline, body, otherwise) => return self.range(pipeline, body, otherwise, dot),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn range(&mut self, pipeline: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<Flow, String> {
        let items: Vec<(Value, Value)> = match self.value(pipeline, dot)? {
            Value::Array(list) => list.into_iter().enumerate().map(|(at, item)| (at.into(), item)).collect(),
            Value::Object(map) => {
                let mut items: Vec<_> = map.into_iter().collect();
                items.sort_by(|one, two| one.0.cmp(&two.0));
                items.into_iter().map(|(key, item)| (key.into(), item)).collect()
            }
            Value::Null => vec![],
            other => return Err(format!("range can't iterate over {}", print(&other))),
        };
        if items.is_empty() {
            return self.body(otherwise, dot);
        }
        for (key, item) in items {
            let scope = self.variables.len();
            match pipeline.variables.len() {
                0 => {}
                1 => self.assign(pipeline, vec![item.clone()])?,
                _ => self.assign(pipeline, vec![key, item.clone()])?,
            }
            let flow = self.body(body, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn assign(&mut self, pipeline: &Pipeline, values: Vec<Value>) -> Result<(), String> {
        for (name, value) in pipeline.variables.iter().zip(values) {
            if pipeline.declares {
                self.variables.push((name.clone(), value));
                continue;
            }
            let variable = self.variables.iter_mut().rev().find(|(known, _)| known == name);
            variable.ok_or(format!("undefined variable \"${name}\""))?.1 = value;
        }
        Ok(())
    }

    /// Each command is given the value of the one before it as its last argument.
    fn value(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or(Value::Null))
    }

    fn command(&mut self, terms: &[Term], dot: &Value, piped: Option<Value>) -> Result<Value, String> {
        let Some((first, rest)) = terms.split_first() else { return Err("missing value".to_string()) };
        let Base::Function(name) = &first.base else {
            return match (rest, piped) {
                ([], None) => self.term(first, dot),
                ([name], None) if first.fields.last().is_some_and(|field| field == "Label") => {
                    let name = print(&self.term(name, dot)?);
                    let mut list = first.fields.clone();
                    list[first.fields.len() - 1] = "Labels".to_string();
                    let whole = Term { base: Base::Dot, fields: list };
                    Ok(label(&print(&self.term(&whole, dot)?), &name).into())
                }
                _ => Err("can't give argument to non-function".to_string()),
            };
        };
        let mut arguments = rest.iter().map(|term| self.term(term, dot)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(piped);
        fields(call(name, &arguments)?, &first.fields)
    }

    fn term(&mut self, term: &Term, dot: &Value) -> Result<Value, String> {
        let value = match &term.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) if name.is_empty() => self.data.clone(),
            Base::Variable(name) => {
                let variable = self.variables.iter().rev().find(|(known, _)| known == name);
                variable.ok_or(format!("undefined variable \"${name}\""))?.1.clone()
            }
            Base::Literal(value) => value.clone(),
            Base::Function(name) => call(name, &[])?,
            Base::Nested(pipeline) => self.value(pipeline, dot)?,
        };
        fields(value, &term.fields)
    }
}

/// Docker's method `.Label "NAME"`: the value of one label of a list `a=1,b=2`.
fn label(list: &str, name: &str) -> String {
    let mut labels: Vec<String> = Vec::new();
    for part in list.split(',') {
        match labels.last_mut() {
            // A comma of a value's own.
            Some(last) if !part.contains('=') => *last += &format!(",{part}"),
            _ => labels.push(part.to_string()),
        }
    }
    let value = labels.iter().find_map(|label| label.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().to_string()
}

/// Takes field after field. What begins with a small letter is a key of a map, and may be missing.
fn fields(mut value: Value, fields: &[String]) -> Result<Value, String> {
    for field in fields {
        value = match value {
            Value::Object(mut map) => match map.remove(field) {
                Some(value) => value,
                None if field.starts_with(char::is_lowercase) => Value::Null,
                None => return Err(format!("executing \"\" at <.{field}>: map has no entry for key \"{field}\"")),
            },
            Value::Null => return Err(format!("executing \"\" at <.{field}>: nil pointer evaluating .{field}")),
            other => {
                let shown = print(&other);
                return Err(format!("executing \"\" at <.{field}>: can't evaluate field {field} in `{shown}`"));
            }
        };
    }
    Ok(value)
}
