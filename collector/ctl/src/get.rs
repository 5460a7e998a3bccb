//! `picketctl get`: pages through what there is, then watches what arrives.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context as _;
use jiff::Timestamp;
use picket_proto::v1;
use picket_proto::v1::fleet_client::FleetClient;

use crate::args::{Get, What};
use crate::filter;
use crate::render::Printer;
use crate::row::{EventRow, FindingRow, NodeRow, Row};
use crate::session::Session;

type Client = FleetClient<tonic::transport::Channel>;

/// Most rows asked for at once; the collector takes no more.
const PAGE_ROWS: usize = 1000;

/// Prints what was asked for.
///
/// # Errors
/// A filter that cannot be understood, a collector that cannot be reached or refuses.
pub(crate) async fn run(config: Option<PathBuf>, get: Get) -> anyhow::Result<()> {
    let filter = filter::to_wire(&get, Timestamp::now())?;
    let session = Session::open(config)?;
    let mut client = session.fleet().await?;
    // The stream is opened before the first page, so that nothing falls between the two.
    let events = match get.watch {
        true if get.what == What::Nodes => anyhow::bail!("nodes cannot be watched; watch history instead"),
        true => Some(explained(&session, client.watch(v1::WatchRequest { filter: Some(filter.clone()) }).await)?),
        false => None,
    };
    let stdout = std::io::stdout();
    let width = terminal_size::terminal_size().filter(|_| stdout.is_terminal()).map(|(width, _)| width.0);
    let mut printer = Printer::new(stdout.lock(), get.output, get.watch, width);
    let limit = if get.limit == 0 { usize::MAX } else { get.limit };
    match get.what {
        What::Nodes => {
            let rows: Vec<NodeRow> = pages(&session, &mut client, limit, filter, async |client, filter, page| {
                let answer = client.list_nodes(v1::ListNodesRequest { filter, page }).await?.into_inner();
                Ok((answer.nodes, answer.next_page_token))
            })
            .await?;
            print_all(&mut printer, &rows)?;
        }
        What::Findings => {
            let rows: Vec<FindingRow> = pages(&session, &mut client, limit, filter, async |client, filter, page| {
                let answer = client.list_findings(v1::ListFindingsRequest { filter, page }).await?.into_inner();
                Ok((answer.findings, answer.next_page_token))
            })
            .await?;
            print_all(&mut printer, &rows)?;
        }
        What::Detections => {
            let rows: Vec<EventRow> = pages(&session, &mut client, limit, filter, async |client, filter, page| {
                let answer = client.list_detections(v1::ListDetectionsRequest { filter, page }).await?.into_inner();
                Ok((answer.detections, answer.next_page_token))
            })
            .await?;
            print_all(&mut printer, &rows)?;
        }
        What::History => {
            let rows: Vec<EventRow> = pages(&session, &mut client, limit, filter, async |client, filter, page| {
                let answer = client.list_history(v1::ListHistoryRequest { filter, page }).await?.into_inner();
                Ok((answer.events, answer.next_page_token))
            })
            .await?;
            print_all(&mut printer, &rows)?;
        }
    }
    let Some(mut events) = events else { return Ok(()) };
    while let Some(message) = explained_status(&session, events.message().await)? {
        let row = EventRow::try_from(message.event.context("the collector sent an empty event")?)?;
        let now = Timestamp::now();
        match get.what {
            What::Findings => {
                if let Some(row) = row.into_finding() {
                    printer.rows(&[row], now)?;
                }
            }
            What::Detections if !row.is_detection() => {}
            What::Detections | What::History | What::Nodes => printer.rows(&[row], now)?,
        }
    }
    anyhow::bail!("the collector ended the watch; run the command again")
}

fn print_all<R: Row>(printer: &mut Printer<impl std::io::Write>, rows: &[R]) -> anyhow::Result<()> {
    match printer.rows(rows, Timestamp::now()) {
        // `picketctl … | head` is no error.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

async fn pages<W, R>(
    session: &Session,
    client: &mut Client,
    limit: usize,
    filter: v1::Filter,
    mut ask: impl AsyncFnMut(&mut Client, Option<v1::Filter>, Option<v1::Page>) -> Result<(Vec<W>, String), tonic::Status>,
) -> anyhow::Result<Vec<R>>
where
    R: TryFrom<W, Error = picket_proto::convert::FieldError>,
{
    let mut rows = Vec::new();
    let mut token = String::new();
    while rows.len() < limit {
        let size = u32::try_from(PAGE_ROWS.min(limit - rows.len())).unwrap_or(u32::MAX);
        let page = v1::Page { size, token };
        let (found, next) = explained_status(session, ask(client, Some(filter.clone()), Some(page)).await)?;
        for wire in found {
            rows.push(R::try_from(wire).context("the collector sent something this version does not understand")?);
        }
        if next.is_empty() {
            break;
        }
        token = next;
    }
    Ok(rows)
}

fn explained<T>(session: &Session, answer: Result<tonic::Response<T>, tonic::Status>) -> anyhow::Result<T> {
    explained_status(session, answer).map(tonic::Response::into_inner)
}

fn explained_status<T>(session: &Session, answer: Result<T, tonic::Status>) -> anyhow::Result<T> {
    answer.map_err(|status| anyhow::anyhow!("{}", session.explain(&status)))
}
