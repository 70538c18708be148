//! `subject put|show|forget`: the data of one person.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

use super::Context;
use crate::address::segment;
use crate::args::{ForgetArgs, FormChoice, PutArgs, ShowArgs, SubjectCommand, ViewChoice};
use crate::exit::{Exit, Failure};
use crate::output::printable;

const MAX_ID: usize = 256;
/// The server takes no larger request.
const MAX_FIELDS: u64 = 1024 * 1024;

#[derive(Deserialize)]
struct Written {
    fields: BTreeMap<String, FieldVersion>,
    /// What keeps a final change from being final yet.
    waiting_for: Option<String>,
}

#[derive(Deserialize)]
struct FieldVersion {
    version: u64,
    updated_at: String,
}

#[derive(Deserialize)]
struct Shown {
    fields: BTreeMap<String, Box<RawValue>>,
    #[serde(default)]
    views: BTreeMap<String, String>,
}

/// Runs a `subject` command; `lookup`, `import` and `export` have rooms of their own.
pub(crate) fn run(command: &SubjectCommand, context: &Context) -> Result<Exit, Failure> {
    match command {
        SubjectCommand::Put(args) => put(args, context),
        SubjectCommand::Show(args) => show(args, context),
        SubjectCommand::Lookup(args) => super::lookup::run(args, context),
        SubjectCommand::Forget(args) => forget(args, context),
        SubjectCommand::Accesses(args) => super::accesses::of_subject(args, context),
        SubjectCommand::Export(args) => super::export::run(args, context),
        SubjectCommand::Import(args) => super::import::run(args, context),
    }
}

/// Checks a subject id before it is sent: 1 to 256 bytes, no control characters.
pub(crate) fn check_id(id: &str) -> Result<(), &'static str> {
    if id.is_empty() {
        return Err("the subject id is empty");
    }
    if id.len() > MAX_ID {
        return Err("the subject id is longer than 256 bytes");
    }
    if id.chars().any(char::is_control) {
        return Err("the subject id has control characters");
    }
    Ok(())
}

fn fields_path(id: &str) -> Result<String, Failure> {
    check_id(id).map_err(Failure::usage)?;
    Ok(format!("/v1/subjects/{}/fields", segment(id)))
}

fn with_query(path: String, query: &[(&str, String)]) -> String {
    let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", segment(value))).collect();
    if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) }
}

fn put(args: &PutArgs, context: &Context) -> Result<Exit, Failure> {
    let fields = match &args.json {
        Some(source) => read_fields(source)?,
        None => assigned_fields(&args.assignments, &args.null)?,
    };
    let mut query = Vec::new();
    if args.enrol_again {
        query.push(("enrol", "again".to_owned()));
    }
    if args.make_final {
        query.push(("final", "true".to_owned()));
    }
    let path = with_query(fields_path(&args.id)?, &query);
    let body = Zeroizing::new(format!("{{\"fields\":{}}}", fields.as_str()));
    let answer = context.client()?.patch_text(&path, &body).map_err(|failure| match failure.exit {
        Exit::Shredded => failure.hint("to store this person again, as a new subject: --enrol-again"),
        _ => failure,
    })?;
    context.ui.note(if answer.status == 201 { "created" } else { "merged" });
    if context.ui.wants_json() {
        context.ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let written: Written = answer.json()?;
    if let Some(why) = &written.waiting_for {
        context.ui.warn(&format!("what it replaced is final by itself once that is done: {}", printable(why)));
    }
    let rows: Vec<_> = written
        .fields
        .into_iter()
        .map(|(name, field)| vec![name, field.version.to_string(), field.updated_at])
        .collect();
    context.ui.table(&["FIELD", "VERSION", "UPDATED"], &rows)?;
    Ok(Exit::Done)
}

/// The fields object as it stands in a file or on standard input; its values keep their spelling.
fn read_fields(source: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = if source == Path::new("-") {
        io::stdin().take(MAX_FIELDS + 1).read_to_string(&mut text)
    } else {
        fs::File::open(source).and_then(|file| file.take(MAX_FIELDS + 1).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::failed(format!("cannot read {}: {error}", source.display())))?;
    if text.len() as u64 > MAX_FIELDS {
        return Err(Failure::failed("the fields are larger than 1 MiB"));
    }
    serde_json::from_str::<BTreeMap<String, &RawValue>>(&text).map_err(|error| {
        Failure::usage(format!(
            "{} is not one JSON object (line {}, column {})",
            source.display(),
            error.line(),
            error.column()
        ))
    })?;
    Ok(text)
}

/// The fields object for `NAME=VALUE` arguments. Refusals name the field or the position, never a value.
fn assigned_fields(assignments: &[String], null: &[String]) -> Result<Zeroizing<String>, Failure> {
    let mut fields: BTreeMap<&str, Zeroizing<String>> = BTreeMap::new();
    let mut set = |name, json| match fields.insert(name, Zeroizing::new(json)) {
        Some(_) => Err(Failure::usage(format!("field {} is given twice", printable(name)))),
        None => Ok(()),
    };
    for (position, assignment) in assignments.iter().enumerate() {
        let (name, value) = assignment
            .split_once('=')
            .filter(|(name, _)| !name.trim_end_matches(':').is_empty())
            .ok_or_else(|| Failure::usage(format!("value {} is not NAME=VALUE", position + 1)))?;
        if value.is_empty() {
            return Err(Failure::usage(format!("field {} has no value", printable(name)))
                .hint(format!("to remove it: --null {}", printable(name))));
        }
        match name.strip_suffix(':') {
            Some(name) => set(name, checked_json(name, value)?)?,
            None => set(name, value_json(name, value)?)?,
        }
    }
    for name in null {
        set(name, "null".to_owned())?;
    }
    if fields.is_empty() {
        return Err(Failure::usage("no fields are given").hint("give NAME=VALUE, --null NAME, or --json FILE"));
    }
    let mut json = Zeroizing::new(String::from("{"));
    for (name, value) in &fields {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&quoted(name));
        json.push(':');
        json.push_str(value);
    }
    json.push('}');
    Ok(json)
}

/// A value from the command line as JSON: objects and arrays as they are, anything else as text.
pub(super) fn value_json(name: &str, value: &str) -> Result<String, Failure> {
    if value.starts_with(['{', '[']) { checked_json(name, value) } else { Ok(quoted(value)) }
}

/// JSON from the command line, as it is written.
fn checked_json(name: &str, value: &str) -> Result<String, Failure> {
    match serde_json::from_str::<&RawValue>(value) {
        Ok(_) => Ok(value.to_owned()),
        Err(error) => Err(Failure::usage(format!(
            "field {} is given as JSON and is none (column {})",
            printable(name),
            error.column()
        ))),
    }
}

/// Text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn show(args: &ShowArgs, context: &Context) -> Result<Exit, Failure> {
    let mut query = Vec::new();
    if !args.names.is_empty() {
        query.push(("names", args.names.join(",")));
    }
    if let Some(view) = args.view {
        query.push(("view", view_name(view).to_owned()));
    }
    if let Some(form) = args.form {
        query.push(("form", form_name(form).to_owned()));
    }
    let path = with_query(fields_path(&args.id)?, &query);
    let answer = context.client()?.get_for(&path, args.purpose.as_deref()).map_err(|failure| match failure.status {
        Some(403) => failure.hint("what is shown depends on --view and on the --purpose it is read for"),
        _ => failure,
    })?;
    if context.ui.wants_json() {
        context.ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let mut shown: Shown = answer.json()?;
    let rows: Vec<_> = shown
        .fields
        .into_iter()
        .map(|(name, value)| {
            let lowered = shown.views.remove(&name);
            let remark = lowered.map_or(String::new(), |view| format!("lowered to {view}"));
            vec![name, value_text(&value), remark]
        })
        .collect();
    context.ui.table(&["FIELD", "VALUE", ""], &rows)?;
    Ok(Exit::Done)
}

/// A value for people: text without its quotes, anything else as JSON.
fn value_text(value: &RawValue) -> String {
    serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

fn view_name(view: ViewChoice) -> &'static str {
    match view {
        ViewChoice::Masked => "masked",
        ViewChoice::Full => "full",
        ViewChoice::Last4 => "last4",
        ViewChoice::None => "none",
    }
}

fn form_name(form: FormChoice) -> &'static str {
    match form {
        FormChoice::Given => "given",
        FormChoice::Normal => "normal",
    }
}

fn forget(args: &ForgetArgs, context: &Context) -> Result<Exit, Failure> {
    let path = format!("{}/{}", fields_path(&args.id)?, segment(&args.field));
    if args.field.is_empty() {
        return Err(Failure::usage("the field name is empty"));
    }
    let client = context.client()?;
    context.ui.confirm(&format!(
        "Forget field {} of subject {}? Its value cannot be brought back.",
        printable(&args.field),
        printable(&args.id)
    ))?;
    let answer = client.delete(&path)?.text()?.to_owned();
    let waits = serde_json::from_str::<serde_json::Value>(&answer).unwrap_or_default();
    match waits["waiting_for"].as_str() {
        _ if context.ui.wants_json() => {
            context.ui.json(&serde_json::json!({ "state": if waits.is_null() { "final" } else { "refused" } }))?;
        }
        Some(why) => context.ui.warn(&format!("forgotten, and final by itself once that is done: {}", printable(why))),
        None => context.ui.note("forgotten: final"),
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn assignments_become_json_and_objects_stay_as_written() {
        let json =
            assigned_fields(&owned(&["name=Zoë \"Z\" = me", "location={\"lat\":-47.76309000}"]), &owned(&["nickname"]))
                .unwrap();
        assert_eq!(*json, r#"{"location":{"lat":-47.76309000},"name":"Zoë \"Z\" = me","nickname":null}"#);
        let json = assigned_fields(&owned(&["age:=1.50", "likes=[\"a\"]", "code=007"]), &[]).unwrap();
        assert_eq!(*json, r#"{"age":1.50,"code":"007","likes":["a"]}"#);
    }

    #[test]
    fn wrong_assignments_are_usage_errors_that_show_no_value() {
        let table: [(&[&str], &[&str], &str); 9] = [
            (&["nickname="], &[], "nickname"),
            (&["+971501238301"], &[], "value 1"),
            (&["=+971501238301"], &[], "value 1"),
            (&["phone={+971501238301"], &[], "phone"),
            (&["phone=[+971501238301"], &[], "phone"),
            (&["phone:=+971501238301"], &[], "phone"),
            (&[":=+971501238301"], &[], "value 1"),
            (&["name=+971501238301"], &["name"], "name"),
            (&[], &[], "no fields"),
        ];
        for (assignments, null, named) in table {
            let failure = assigned_fields(&owned(assignments), &owned(null)).unwrap_err();
            assert_eq!(failure.exit as u8, 2, "{assignments:?}");
            assert!(failure.message.contains(named), "{failure}");
            assert!(!failure.message.contains("1238301"), "{failure}");
        }
        let empty = assigned_fields(&owned(&["nickname="]), &[]).unwrap_err();
        assert!(empty.hint.unwrap().contains("--null nickname"));
    }

    #[test]
    fn ids_are_checked_before_they_are_sent() {
        assert!(check_id("a/b ü").is_ok());
        assert!(check_id(&"x".repeat(256)).is_ok());
        for bad in [String::new(), "x".repeat(257), "a\nb".into(), "a\u{7f}".into()] {
            assert!(check_id(&bad).is_err());
        }
    }

    #[test]
    fn a_fields_file_must_be_one_object() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fields.json");
        fs::write(&path, "{\"location\": {\"lat\": 1.50}}\n").unwrap();
        assert!(read_fields(&path).unwrap().contains("1.50"));
        for bad in ["[1]", "{\"name\": \"Ada\"", "", "{} {}"] {
            fs::write(&path, bad).unwrap();
            let failure = read_fields(&path).unwrap_err();
            assert_eq!(failure.exit as u8, 2, "{bad}");
            assert!(!failure.message.contains("Ada"), "{failure}");
        }
    }
}
