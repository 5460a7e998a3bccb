//! What patches change. A merge, strategic or apply patch has the form of the object; a JSON patch is a list of
//! operations, of which what they put into the object is made.

use std::borrow::Cow;
use std::mem;

use serde_json::{Map, Value};

use crate::decode::{Body, FIELD, FIRST_FIELD, MEMBER};

/// The API server takes no more operations.
const MAX_OPERATIONS: usize = 10_000;
/// Longest path of an operation that is followed, in steps.
const MAX_STEPS: usize = 48;
/// Deepest value that is moved or copied.
const MAX_DEPTH: usize = 192;
/// Bytes of memory that the object may take that a JSON patch makes. A request has three million at most.
const BUDGET: usize = 12 * 1024 * 1024;
/// Longest list whose members are counted.
const MAX_COUNTED: usize = 1024;
/// Bytes of memory that the places may take that a patch is said to touch: some 80,000 of usual length.
const PLACES_BUDGET: usize = 6 * 1024 * 1024;
/// What a place costs besides its text.
const PLACE: usize = 48;
/// Longest name of such a place, in bytes.
const MAX_PLACE: usize = 1024;
/// Where the members of a list are kept whose places are not known.
const MEMBERS: &str = "-";
/// Where the members at the end of such a list are kept, in order. No step is kept under this number.
const LAST: &str = "-0";
/// Objects whose fields have any names, also numbers.
const MAPS: [&str; 8] =
    ["data", "binaryData", "stringData", "labels", "annotations", "matchLabels", "nodeSelector", "selector"];

type Fields = Map<String, Value>;
type Steps<'p> = Vec<Cow<'p, str>>;

fn operations(patch: &[Value]) -> impl DoubleEndedIterator<Item = &Value> {
    patch.get(..MAX_OPERATIONS.min(patch.len())).unwrap_or_default().iter()
}

fn text<'v>(operation: &'v Value, field: &str) -> Option<&'v str> {
    operation.get(field)?.as_str()
}

/// The steps of the JSON pointer in this field; none for what cannot be followed. The API server does not look at what
/// stands before the first slash.
fn steps<'v>(operation: &'v Value, field: &str) -> Option<Steps<'v>> {
    let pointer = text(operation, field)?;
    let plain = |step: &'v str| {
        if step.contains('~') { Cow::Owned(step.replace("~1", "/").replace("~0", "~")) } else { Cow::Borrowed(step) }
    };
    let steps: Steps<'_> = pointer.split('/').skip(1).take(MAX_STEPS + 1).map(plain).collect();
    (steps.len() <= MAX_STEPS && (pointer.is_empty() || !steps.is_empty())).then_some(steps)
}

/// What a JSON patch puts into its object: an object of which only that much is known. Members of a list come in any
/// order; what is put into the same member comes together. What is put in and then taken out again may still be there.
pub(crate) fn put_by(patch: &[Value]) -> Body {
    let cut = patch.len() > MAX_OPERATIONS;
    let mut partial = Partial { root: Value::Object(Fields::new()), left: BUDGET, cut };
    for operation in operations(patch) {
        partial.apply(operation);
        if partial.left == 0 {
            break;
        }
    }
    make_lists(&mut partial.root, "");
    Body { value: Some(partial.root), cut: partial.cut || partial.left == 0 }
}

/// An object that grows by operations. A list of which only some members are known is an object meanwhile: those whose
/// place is known under its number, those at the end in a list under [`LAST`], the others in one under [`MEMBERS`].
struct Partial {
    root: Value,
    left: usize,
    /// Some operation was not followed.
    cut: bool,
}

impl Partial {
    fn apply(&mut self, operation: &Value) {
        let (Some(kind), Some(path)) = (text(operation, "op"), steps(operation, "path")) else {
            self.cut |= text(operation, "path").is_some_and(|path| path.len() > MAX_STEPS);
            return;
        };
        let value = match kind {
            "add" | "replace" => {
                let value = operation.get("value").unwrap_or(&Value::Null);
                match self.is_paid(value) {
                    true => value.clone(),
                    false => return,
                }
            }
            "move" | "copy" => {
                let Some(from) = steps(operation, "from") else { return };
                let found = self.copied(&from);
                if kind == "move" {
                    self.remove(&from);
                }
                // What was there is not known: it becomes something of no kind that rules ask for.
                found.unwrap_or(Value::from(0))
            }
            "remove" => return self.remove(&path),
            _ => return,
        };
        // An operation that goes nowhere is one that the API server refuses.
        self.put(&path, value, kind != "replace");
    }

    /// What is known of the value there. The API server limits what is copied too.
    fn copied(&mut self, from: &[Cow<'_, str>]) -> Option<Value> {
        let found = from.iter().try_fold(&self.root, |value, step| match value {
            Value::Object(fields) => near_end(fields, step).or_else(|| fields.get(&**step)),
            Value::Array(members) => members.get(index(step, members.len())?),
            _ => None,
        })?;
        pay_for(found, MAX_DEPTH, &mut self.left).then(|| found.clone())
    }

    fn is_paid(&mut self, value: &Value) -> bool {
        pay_for(value, MAX_DEPTH, &mut self.left)
    }

    fn remove(&mut self, path: &[Cow<'_, str>]) {
        let Some((last, parents)) = path.split_last() else { return };
        let Some(parent) = parents.iter().try_fold(&mut self.root, |value, step| match value {
            Value::Object(fields) => match near_end(fields, step).is_some() {
                true => tail(fields)?.iter_mut().nth_back(from_end(step)? - 1),
                false => fields.get_mut(&**step),
            },
            Value::Array(members) => {
                let index = index(step, members.len())?;
                members.get_mut(index)
            }
            _ => None,
        }) else {
            return;
        };
        uncount(parent);
        match parent {
            Value::Array(members) => {
                if let Some(index) = index(last, members.len()).filter(|index| *index < members.len()) {
                    members.remove(index);
                }
            }
            // All behind it move up. Which of the members it is need not be known.
            Value::Object(fields) if is_list(fields, last, parents) => match from_end(last) {
                Some(behind) if near_end(fields, last).is_some() => {
                    if let Some(tail) = tail(fields) {
                        tail.remove(tail.len() - behind);
                    }
                }
                _ => settle(fields),
            },
            Value::Object(fields) => {
                fields.remove(&**last);
            }
            _ => {}
        }
    }

    fn put(&mut self, path: &[Cow<'_, str>], value: Value, insert: bool) -> Option<()> {
        let Some((last, parents)) = path.split_last() else {
            self.root = value;
            return Some(());
        };
        let mut at = &mut self.root;
        for (depth, step) in parents.iter().enumerate() {
            let (above, below) = (path.get(..depth).unwrap_or_default(), path.get(depth + 1..).unwrap_or_default());
            at = enter(at, step, above, below, &mut self.left)?;
        }
        uncount(at);
        if let Value::Array(members) = at {
            match index(last, members.len()) {
                _ if &**last == MEMBERS => members.push(value),
                Some(index) if insert && index <= members.len() => members.insert(index, value),
                Some(index) => *members.get_mut(index)? = value,
                None => return None,
            }
            return pay(&mut self.left, MEMBER);
        }
        let fields = object(at)?;
        if !is_list(fields, last, parents) {
            pay_field(fields, last, &mut self.left)?;
            fields.insert(last.clone().into_owned(), value);
        } else if last.starts_with('-') {
            pay(&mut self.left, MEMBER)?;
            // What is put in at -1 is the last then.
            let behind = from_end(last).map_or(0, |behind| behind - usize::from(insert));
            let full = tail(fields).filter(|tail| tail.len() > MAX_COUNTED).map(mem::take);
            members(fields)?.extend(full.unwrap_or_default());
            let tail = tail_of(fields)?;
            match tail.len().checked_sub(behind) {
                Some(at) if insert || behind == 0 => tail.insert(at, value),
                Some(at) => *tail.get_mut(at)? = value,
                None => members(fields)?.push(value),
            }
        } else {
            if insert {
                // All behind it move on.
                settle(fields);
            }
            pay_field(fields, last, &mut self.left)?;
            fields.insert(last.clone().into_owned(), value);
        }
        Some(())
    }
}

/// The value at the next step, which is made when it is not known yet.
fn enter<'v>(
    value: &'v mut Value,
    step: &str,
    above: &[Cow<'_, str>],
    below: &[Cow<'_, str>],
    left: &mut usize,
) -> Option<&'v mut Value> {
    if let Value::Array(members) = value {
        let index = index(step, members.len())?;
        return members.get_mut(index);
    }
    let fields = object(value)?;
    if step.starts_with('-') && is_list(fields, step, above) {
        // Counted from the end, of which the place is not known.
        pay(left, MEMBER)?;
        if near_end(fields, step).is_some() {
            let behind = from_end(step)?;
            return tail(fields)?.iter_mut().nth_back(behind - 1);
        }
        let members = members(fields)?;
        members.push(Value::Null);
        return members.last_mut();
    }
    pay_field(fields, step, left)?;
    if is_list(fields, step, above) && !fields.contains_key(step) {
        // The first place that is not known yet may be that of what was put in at the end: one member then, as long as
        // nothing of it is hidden by that.
        let place = tail(fields).filter(|tail| tail.first().is_some_and(|first| takes(first, below)));
        if let Some(tail) = place {
            let first = tail.remove(0);
            return Some(fields.entry(step).or_insert(first));
        }
    }
    Some(fields.entry(step).or_insert(Value::Null))
}

/// Whether a value may be put in there without anything that is known of this member being lost. To put something into
/// an empty one may hide that it is empty.
fn takes(member: &Value, below: &[Cow<'_, str>]) -> bool {
    let is_something = member.as_object().is_some_and(|fields| !fields.is_empty());
    let mut value = member;
    for step in below {
        match value {
            Value::Object(fields) => match fields.get(&**step) {
                Some(next) => value = next,
                None => return is_something,
            },
            // What stands in a list of it moves on.
            _ => return false,
        }
    }
    false
}

fn pay(left: &mut usize, cost: usize) -> Option<()> {
    *left = left.saturating_sub(cost);
    (*left > 0).then_some(())
}

fn pay_field(fields: &Fields, name: &str, left: &mut usize) -> Option<()> {
    let is_new = || !fields.contains_key(name);
    let cost = match fields.is_empty() {
        true => FIRST_FIELD + name.len(),
        false if is_new() => FIELD + name.len(),
        false => 1,
    };
    pay(left, cost)
}

/// Whether so much may be copied, and no deeper.
fn pay_for(value: &Value, depth: usize, left: &mut usize) -> bool {
    let cost = match value {
        Value::String(text) => text.len(),
        Value::Array(members) => members.len() * MEMBER,
        Value::Object(fields) => FIRST_FIELD + fields.keys().map(|name| FIELD + name.len()).sum::<usize>(),
        _ => 0,
    };
    if depth == 0 || pay(left, cost + 1).is_none() {
        *left = 0;
        return false;
    }
    match value {
        Value::Array(members) => members.iter().all(|member| pay_for(member, depth - 1, left)),
        Value::Object(fields) => fields.values().all(|field| pay_for(field, depth - 1, left)),
        _ => true,
    }
}

/// The place in a list of this length; negative ones count from its end.
fn index(step: &str, length: usize) -> Option<usize> {
    let index: i64 = step.parse().ok()?;
    if index < 0 { length.checked_add_signed(isize::try_from(index).ok()?) } else { usize::try_from(index).ok() }
}

fn is_place(step: &str) -> bool {
    step == MEMBERS || step.parse::<i64>().is_ok()
}

/// Whether these are members of a list, at a step that comes after those `above`.
fn is_list(fields: &Fields, step: &str, above: &[Cow<'_, str>]) -> bool {
    let mut names = fields.keys();
    is_place(step)
        && above.last().is_none_or(|name| !MAPS.contains(&&**name))
        && names.next().is_none_or(|name| is_place(name))
        && names.next_back().is_none_or(|name| is_place(name))
}

fn object(value: &mut Value) -> Option<&mut Fields> {
    if !value.is_object() {
        *value = Value::Object(Fields::new());
    }
    value.as_object_mut()
}

fn members(fields: &mut Fields) -> Option<&mut Vec<Value>> {
    fields.entry(MEMBERS).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
}

/// The members at the end of a list, as far as they are known.
fn tail(fields: &mut Fields) -> Option<&mut Vec<Value>> {
    fields.get_mut(LAST)?.as_array_mut()
}

fn tail_of(fields: &mut Fields) -> Option<&mut Vec<Value>> {
    fields.entry(LAST).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
}

/// The member that is so many from the end, if it is known.
fn near_end<'v>(fields: &'v Fields, step: &str) -> Option<&'v Value> {
    let behind = from_end(step)?;
    fields.get(LAST)?.as_array()?.iter().nth_back(behind - 1)
}

/// How many members from the end this one is: 1 is the last.
fn from_end(step: &str) -> Option<usize> {
    step.strip_prefix('-')?.parse().ok().filter(|behind| *behind > 0)
}

/// The members are somewhere else from now on. Each is settled only once.
fn settle(fields: &mut Fields) {
    let mut settled = members(fields).map(mem::take).unwrap_or_default();
    fields.remove(MEMBERS);
    settled.extend(tail(fields).map(mem::take).unwrap_or_default());
    fields.remove(LAST);
    settled.extend(mem::take(fields).into_iter().map(|(_, member)| member));
    fields.insert(MEMBERS.to_owned(), Value::Array(settled));
}

/// To put members into a long list at their place would cost too much.
fn uncount(value: &mut Value) {
    if let Value::Array(members) = value
        && members.len() > MAX_COUNTED
    {
        let members = Value::Array(mem::take(members));
        *value = Value::Object(Fields::from_iter([(MEMBERS.to_owned(), members)]));
    }
}

fn make_lists(value: &mut Value, name: &str) {
    match value {
        Value::Array(members) => members.iter_mut().for_each(|member| make_lists(member, "")),
        Value::Object(fields) => {
            fields.iter_mut().for_each(|(name, value)| make_lists(value, name));
            if !fields.is_empty() && !MAPS.contains(&name) && fields.keys().all(|name| is_place(name)) {
                settle(fields);
                *value = fields.remove(MEMBERS).unwrap_or_default();
            }
        }
        _ => {}
    }
}

const PSS_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// The Pod Security level that a change of a Namespace sets: the value, or empty when the label is taken away, be it with
/// all labels. `None` when the change does not touch it.
pub(crate) fn pss_enforce(request: &Value, is_patch: bool) -> Option<String> {
    let level = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
    if let Value::Array(patch) = request {
        return operations(patch).rev().find_map(|operation| {
            let at = |field| inside(&steps(operation, field)?);
            match (text(operation, "op")?, at("path"), at("from")) {
                ("add" | "replace", Some(rest), _) => {
                    Some(level(rest.iter().try_fold(operation.get("value")?, |value, step| value.get(step))))
                }
                // What comes there from elsewhere is not known.
                ("remove" | "move" | "copy", Some(_), _) | ("move", _, Some(_)) => Some(String::new()),
                _ => None,
            }
        });
    }
    let mut value = request;
    let mut is_replaced = false;
    for step in ["metadata", "labels", PSS_LABEL] {
        let next = value.get(step);
        is_replaced |= replaces(value);
        if is_patch && next.is_none_or(Value::is_null) {
            return (next.is_some() || is_replaced || drops(value, step)).then(String::new);
        }
        value = next?;
    }
    Some(level(Some(value)))
}

/// What remains of the way to the label behind these steps, when they lead there.
fn inside(steps: &[Cow<'_, str>]) -> Option<&'static [&'static str]> {
    const WAY: &[&str] = &["metadata", "labels", PSS_LABEL];
    let (way, rest) = WAY.split_at_checked(steps.len())?;
    way.iter().zip(steps).all(|(way, step)| way == step).then_some(rest)
}

/// Whether a strategic merge patch leaves nothing of what was there.
fn replaces(object: &Value) -> bool {
    object.get("$patch").is_some_and(|directive| directive == "replace" || directive == "delete")
}

/// Whether a strategic merge patch takes this field away because it does not list it.
fn drops(object: &Value, field: &str) -> bool {
    let kept = object.get("$retainKeys").and_then(Value::as_array);
    kept.is_some_and(|kept| !kept.iter().any(|name| name == field))
}

/// Whether what is sent of a NetworkPolicy has an empty rule, which allows everything.
pub(crate) fn allows_all(sent: &Value) -> bool {
    let is_empty = |rule: &Value| rule.as_object().is_some_and(Fields::is_empty);
    ["ingress", "egress"].iter().any(|list| {
        let rules = sent.get("spec").and_then(|spec| spec.get(list)?.as_array());
        rules.is_some_and(|rules| rules.iter().any(is_empty))
    })
}

/// The places that a patch touches, as `/spec/taints`: the deepest objects' fields, of a JSON patch below the paths of
/// its operations. Whether some were left out, too.
pub(crate) fn places(patch: &Value) -> (Vec<String>, bool) {
    let mut touched = Touched { place: String::new(), left: PLACES_BUDGET, found: Vec::new() };
    let Value::Array(patch) = patch else {
        touched.by(patch);
        return (touched.found, touched.left == 0);
    };
    for operation in operations(patch) {
        let fields: &[&str] = match text(operation, "op") {
            Some("add" | "replace" | "remove" | "copy") => &["path"],
            Some("move") => &["path", "from"],
            _ => &[],
        };
        for steps in fields.iter().filter_map(|field| steps(operation, field)) {
            touched.place.clear();
            let _ = steps.iter().try_for_each(|step| touched.go_to(step));
            touched.by(operation.get("value").unwrap_or(&Value::Null));
        }
    }
    (touched.found, touched.left == 0)
}

/// Places that are collected for as long as memory is left.
struct Touched {
    /// Where the walk is.
    place: String,
    left: usize,
    found: Vec<String>,
}

impl Touched {
    fn go_to(&mut self, step: &str) -> Option<()> {
        let fits = self.place.len() + step.len() < MAX_PLACE;
        if fits {
            self.place.push('/');
            self.place.push_str(step);
        }
        fits.then_some(())
    }

    fn here(&mut self) {
        self.left = self.left.saturating_sub(PLACE + self.place.len());
        if self.left > 0 {
            self.found.push(self.place.clone());
        }
    }

    fn by(&mut self, value: &Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    if self.left == 0 {
                        return;
                    }
                    let length = self.place.len();
                    match self.go_to(name) {
                        Some(()) => self.by(value),
                        None => self.here(),
                    }
                    self.place.truncate(length);
                }
            }
            _ => self.here(),
        }
    }
}
