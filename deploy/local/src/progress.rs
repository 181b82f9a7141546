//! Tells a person how far a start is: moving lines in a terminal, plain lines elsewhere, nothing for tests, and lines of
//! JSON from a supervisor in the background to the command that started it.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What a region is doing now.
    Step { region: String, text: String },
    /// A region is ready.
    Ready { region: String },
    /// A line that stays.
    Note { text: String },
    /// The whole start succeeded.
    Started,
    /// It failed; the text is for the person.
    Failed { text: String },
}

/// Where events go. Cheap to clone; telling never fails.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    view: Option<Arc<View>>,
}

#[derive(Debug)]
enum View {
    Bars { all: MultiProgress, regions: Mutex<BTreeMap<String, ProgressBar>> },
    Plain,
    Json,
}

impl Progress {
    /// Tells nobody.
    pub fn silent() -> Self {
        Self::default()
    }

    /// For a person, as fits where the output goes.
    pub fn for_person() -> Self {
        let view = if std::io::stderr().is_terminal() {
            View::Bars { all: MultiProgress::new(), regions: Mutex::default() }
        } else {
            View::Plain
        };
        Self { view: Some(Arc::new(view)) }
    }

    /// For the command that started this supervisor.
    pub fn json() -> Self {
        Self { view: Some(Arc::new(View::Json)) }
    }

    pub fn step(&self, region: &str, text: &str) {
        self.tell(&Event::Step { region: region.to_owned(), text: text.to_owned() });
    }

    pub fn ready(&self, region: &str) {
        self.tell(&Event::Ready { region: region.to_owned() });
    }

    pub fn note(&self, text: &str) {
        self.tell(&Event::Note { text: text.to_owned() });
    }

    pub fn tell(&self, event: &Event) {
        match self.view.as_deref() {
            None => {}
            Some(View::Plain) => plain(event),
            Some(View::Json) => {
                let line = serde_json::to_string(event).expect("an event is plain data");
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            }
            Some(View::Bars { all, regions }) => draw(all, &mut lock(regions), event),
        }
    }
}

fn plain(event: &Event) {
    let line = match event {
        Event::Step { region, text } => format!("  {region:<12} {text}"),
        Event::Ready { region } => format!("  {region:<12} ready"),
        Event::Note { text } => text.clone(),
        Event::Started | Event::Failed { .. } => return,
    };
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn draw(all: &MultiProgress, regions: &mut BTreeMap<String, ProgressBar>, event: &Event) {
    let mut bar = |region: &String| {
        let fresh = || {
            let style = ProgressStyle::with_template("  {spinner} {prefix:12} {msg}")
                .expect("the template is a fixed one")
                .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏✓");
            let bar = all.add(ProgressBar::new_spinner().with_style(style).with_prefix(region.clone()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        };
        regions.entry(region.clone()).or_insert_with(fresh).clone()
    };
    match event {
        Event::Step { region, text } => bar(region).set_message(text.clone()),
        Event::Ready { region } => bar(region).finish_with_message("ready"),
        Event::Note { text } => {
            let _ = all.println(text);
        }
        Event::Started => regions.clear(),
        Event::Failed { .. } => {
            for bar in regions.values() {
                bar.abandon();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
