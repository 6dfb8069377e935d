//! A runner that notes what it is asked and answers as it is told.

use std::path::Path;
use std::sync::{Arc, Mutex};

use ensign_agent::ipc::socket::Listener;
use ensign_agent::ipc::{FromRunner, ToRunner};
use ensign_agent::paths::sockets;

type Answer = Box<dyn FnMut(&ToRunner) -> FromRunner + Send>;

#[derive(Clone)]
pub(crate) struct FakeRunner {
    asked: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<Answer>>,
}

impl FakeRunner {
    pub(crate) fn listen(run: &Path) -> Self {
        let listener = Listener::bind(run, sockets::RUNNER).unwrap();
        let this = Self {
            asked: Arc::default(),
            answer: Arc::new(Mutex::new(Box::new(|_| FromRunner::Ok))),
        };
        let (asked, answer) = (Arc::clone(&this.asked), Arc::clone(&this.answer));
        // Ends with the test's process.
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                while let Ok(Some((question, _))) = socket.receive::<ToRunner>() {
                    asked.lock().unwrap().push(name(&question));
                    let says = (answer.lock().unwrap())(&question);
                    if socket.send(&says, &[]).is_err() {
                        break;
                    }
                }
            }
        });
        this
    }

    pub(crate) fn answer(&self, answer: impl FnMut(&ToRunner) -> FromRunner + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    /// Units that were stopped and started so far, and probes left out; the list starts anew.
    pub(crate) fn units(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap();
        let units = asked
            .iter()
            .filter(|a| !a.starts_with("IsActive") && !a.starts_with("exec") && *a != "labels");
        let units = units.cloned().collect();
        asked.clear();
        units
    }
}

pub(crate) fn name(question: &ToRunner) -> String {
    match question {
        ToRunner::Unit { verb, name } => format!("{verb:?} {name}"),
        ToRunner::Exec { args, .. } => format!("exec {}", args.join(" ")),
        ToRunner::Tcp { address, .. } => format!("tcp {address}"),
        ToRunner::Http { url, .. } => format!("http {url}"),
        ToRunner::LabelsChanged => "labels".to_owned(),
    }
}
