//! `top`: what the running appliance does, live in the terminal or as one frame.

use crate::arguments::{TopArguments, TopSortName, TopViewName};
use crate::questions::{print, socket};
use waystation_management::render::top::{SortKey, TopView};
use waystation_management::top::{self, TopSettings};

/// `waystation top`
pub(crate) fn top(arguments: &TopArguments) -> anyhow::Result<()> {
    let settings = TopSettings {
        socket: socket(&arguments.socket)?,
        interval: arguments.interval,
        view: view(arguments),
        sort: match arguments.sort {
            TopSortName::Mbps => SortKey::Mbps,
            TopSortName::Messages => SortKey::Messages,
            TopSortName::Queue => SortKey::Queue,
            TopSortName::Ping => SortKey::Ping,
            TopSortName::P99 => SortKey::P99,
            TopSortName::Drops => SortKey::Drops,
        },
    };
    if !arguments.once {
        return Ok(top::live(&settings)?);
    }
    let colour = top::is_terminal().then(top::wants_colour);
    print(top::once(&settings, top::size(), colour)?.as_bytes())
}

/// The view asked for, else one whose rows have the order asked for.
fn view(arguments: &TopArguments) -> TopView {
    match (arguments.view, arguments.sort) {
        (Some(TopViewName::Links), _) => TopView::Links,
        (Some(TopViewName::Pipes), _) => TopView::Pipes,
        (Some(TopViewName::Cores), _) => TopView::Cores,
        (Some(TopViewName::Drops), _) => TopView::Drops,
        (None, TopSortName::P99 | TopSortName::Drops) => TopView::Cores,
        (
            None,
            TopSortName::Mbps | TopSortName::Messages | TopSortName::Queue | TopSortName::Ping,
        ) => TopView::Links,
    }
}
