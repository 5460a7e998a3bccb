//! Where log lines go: to the journal with structured fields when systemd started the service, to standard error as
//! readable text otherwise.
//!
//! In the journal `MESSAGE` is the sentence followed by its variables, for people; each variable is also a field of
//! its own, with `PICKET_` before its name (`PICKET_CONTROL`, `PICKET_PATH`), for `journalctl PICKET_CONTROL=…` and
//! for programs. Fields of the spans around an event are included, and an error is given with all its sources.

use std::fmt::{self, Write as _};
use std::io::IsTerminal;

use log::kv::{Key, Source, Value, VisitSource};
use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::chain::Chain;

/// One line, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How loud.
    pub level: Level,
    /// The module that speaks.
    pub target: String,
    /// Source file and line, if known.
    pub place: Option<(String, u32)>,
    /// The sentence, without its variables.
    pub message: String,
    /// The variables: those of the spans from the outermost in, then the event's own.
    pub fields: Vec<(&'static str, String)>,
}

impl fmt::Display for Line {
    /// The sentence and its variables, as in the journal's `MESSAGE`: one line. Variables may come from strangers
    /// (host names, users of an audit log), so control characters in them are written out; the fields have them as
    /// they came.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for (position, (name, value)) in self.fields.iter().enumerate() {
            f.write_str(if position == 0 { ": " } else { ", " })?;
            write!(f, "{name}=")?;
            for c in value.chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
            }
        }
        Ok(())
    }
}

/// What takes lines: the journal, or a test.
pub trait Sink: Send + Sync + 'static {
    /// Takes a line. Must not fail and must not log.
    fn line(&self, line: &Line);
}

struct Journal(JournalLog);

struct Fields(Vec<(String, String)>);

impl Source for Fields {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        self.0.iter().try_for_each(|(name, value)| visitor.visit_pair(Key::from_str(name), Value::from(value.as_str())))
    }
}

impl Sink for Journal {
    fn line(&self, line: &Line) {
        let fields =
            Fields(line.fields.iter().map(|(name, value)| (format!("PICKET_{name}"), value.clone())).collect());
        let (file, number) = line.place.as_ref().map_or((None, None), |(f, n)| (Some(f.as_str()), Some(*n)));
        let level = match line.level {
            Level::ERROR => log::Level::Error,
            Level::WARN => log::Level::Warn,
            Level::INFO => log::Level::Info,
            Level::DEBUG => log::Level::Debug,
            Level::TRACE => log::Level::Trace,
        };
        // Nobody is left to tell when journald itself is gone.
        self.0
            .journal_send(
                &log::Record::builder()
                    .level(level)
                    .target(&line.target)
                    .file(file)
                    .line(number)
                    .key_values(&fields)
                    .args(format_args!("{line}"))
                    .build(),
            )
            .ok();
    }
}

/// A tracing layer that hands lines with all their fields to a [`Sink`].
pub struct SinkLayer<S>(pub S);

#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Collected {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Collected {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, Chain(value).to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

impl<S: Sink, R: Subscriber + for<'a> LookupSpan<'a>> Layer<R> for SinkLayer<S> {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, R>) {
        let mut collected = Collected::default();
        attributes.record(&mut collected);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(collected);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, R>) {
        if let Some(span) = context.span(id)
            && let Some(collected) = span.extensions_mut().get_mut::<Collected>()
        {
            values.record(collected);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, R>) {
        let mut own = Collected::default();
        event.record(&mut own);
        let mut fields = Vec::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(collected) = span.extensions().get::<Collected>() {
                fields.extend(collected.fields.iter().cloned());
            }
        }
        fields.append(&mut own.fields);
        let meta = event.metadata();
        self.0.line(&Line {
            level: *meta.level(),
            target: meta.target().to_owned(),
            place: meta.file().zip(meta.line()).map(|(file, line)| (file.to_owned(), line)),
            message: own.message,
            fields,
        });
    }
}

/// Logging that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter makes no sense.
    #[error("{0:?} is no log level: use error, warn, info, debug or trace, or such as info,picketd::watch=debug")]
    Level(String, #[source] tracing_subscriber::filter::ParseError),
    /// Something set up logging before.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
    /// The filter cannot be changed any more.
    #[error("the log level cannot be changed")]
    Gone(#[source] reload::Error),
}

/// Changes the log level of a running service.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// From now on only what this filter lets through.
    ///
    /// # Errors
    /// When the filter makes no sense; the one before stays.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        self.0.reload(filter(level)?).map_err(LogError::Gone)
    }
}

/// Checks a filter without using it.
///
/// # Errors
/// When it makes no sense.
pub fn filter(level: &str) -> Result<Targets, LogError> {
    level.parse::<Targets>().map_err(|error| LogError::Level(level.to_owned(), error))
}

/// Sets up logging for the process: once, in `main`.
///
/// # Errors
/// When the filter makes no sense or logging is set up already.
pub fn init(level: &str) -> Result<LogLevel, LogError> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let registry = tracing_subscriber::registry().with(filter);
    // JOURNAL_STREAM names the very socket standard error leads to, so a redirected one is text again. Where journald
    // cannot be reached although it started us, standard error still leads to it.
    let journal = connected_to_journal().then(JournalLog::new).and_then(Result::ok);
    match journal {
        Some(journal) => registry.with(SinkLayer(Journal(journal))).try_init(),
        None => registry
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
            ))
            .try_init(),
    }
    .map_err(LogError::Twice)?;
    Ok(LogLevel(handle))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Line>>>);

    impl Sink for Kept {
        fn line(&self, line: &Line) {
            self.0.lock().unwrap().push(line.clone());
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read /x")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_line_has_its_spans_its_fields_and_the_whole_error() {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(SinkLayer(kept.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("task", task = "engine", round = tracing::field::Empty);
            let _inside = span.enter();
            span.record("round", 3);
            let error = Outer(std::io::Error::other("no"));
            tracing::warn!(control = "x", error = &error as &dyn std::error::Error, "source cannot be read");
        });
        let lines = kept.0.lock().unwrap();
        assert_eq!(lines[0].message, "source cannot be read");
        assert_eq!(
            lines[0].to_string(),
            "source cannot be read: task=engine, round=3, control=x, error=cannot read /x: no"
        );
        assert_eq!(lines[0].level, Level::WARN);
    }

    #[test]
    fn a_hostile_name_makes_no_second_line() {
        let fields = vec![("hostname", "edge\nERROR all nodes are lost\u{1b}[2J".to_owned())];
        let line = Line {
            level: Level::INFO,
            target: String::new(),
            place: None,
            message: "node connected".to_owned(),
            fields,
        };
        assert_eq!(line.to_string(), "node connected: hostname=edge\\nERROR all nodes are lost\\u{1b}[2J");
    }

    #[test]
    fn journal_fields_carry_our_prefix() {
        struct Names(Vec<String>);
        impl<'k> VisitSource<'k> for Names {
            fn visit_pair(&mut self, key: Key<'k>, value: Value<'k>) -> Result<(), log::kv::Error> {
                self.0.push(format!("{key}={value}"));
                Ok(())
            }
        }
        let mut names = Names(Vec::new());
        Fields(vec![("PICKET_control".into(), "x".into())]).visit(&mut names).unwrap();
        assert_eq!(names.0, ["PICKET_control=x"]);
    }

    #[test]
    fn a_wrong_level_says_what_is_right() {
        let error = filter("loud=very=much").unwrap_err().to_string();
        assert!(error.contains("info"), "{error}");
    }

    #[test]
    fn a_module_may_say_more_than_the_others() {
        let filter = filter("info,picketd::engine=debug").unwrap();
        assert!(filter.would_enable("picketd::engine::look", &Level::DEBUG));
        assert!(!filter.would_enable("picketd::uplink", &Level::DEBUG));
        assert!(filter.would_enable("picketd::uplink", &Level::INFO));
    }
}
