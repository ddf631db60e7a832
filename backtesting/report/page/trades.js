// The list of trades: sorted, filtered, and each a way into the chart.

const PER_PAGE = 25;
const trades = {rows: [], shown: [], chosen: -1, page: 0, sort: {column: "number", isDown: false}, filters: {}};

const DETAILS = {
  number: {title: "#", text: row => String(row.number + 1)},
  market: {title: "Market", words: true, value: row => data.markets[row.market].symbol, text: row => data.markets[row.market].symbol},
  side: {title: "Side", words: true, value: row => row.isLong ? 0 : 1, text: row => row.isLong ? "▲ Long" : "▼ Short"},
  gain: {title: "Return", text: row => percents(row.gain), exact: true, tone: true},
  pnl: {title: "Profit", text: row => signed(row.pnl, data.money_decimals), exact: true, tone: true},
  entryTime: {title: "Entry", text: row => timeOf(row.entryTime)},
  entry: {title: "Entry price", text: row => price(row, row.entry), exact: true},
  exitTime: {title: "Exit", text: row => timeOf(row.exitTime)},
  exit: {title: "Exit price", text: row => price(row, row.exit), exact: true},
  held: {title: "Held", value: row => row.exitTime - row.entryTime, text: row => lasted(row.exitTime - row.entryTime)},
  quantity: {title: "Quantity", text: row => plain(row.quantity), exact: true},
  fees: {title: "Fees", text: row => written(row.fees, data.money_decimals), exact: true},
  reason: {title: "Exit reason", words: true, text: row => reasonOf(row)},
  tag: {title: "Tag", words: true, text: row => row.tag},
  exitTag: {title: "Exit tag", words: true, text: row => row.exitTag},
};
const CHOICES = {
  market: ["Market", row => data.markets[row.market].symbol, text => text],
  side: ["Side", row => row.isLong ? "Long" : "Short", text => text],
  reason: ["Exit reason", row => reasonOf(row), text => text],
  tag: ["Tag", row => row.tag, text => text || "(none)"],
  exitTag: ["Exit tag", row => row.exitTag, text => text || "(none)"],
  outcome: ["Outcome", row => row.reason === "" ? "Still open" : row.pnl > 0 ? "Gain" : "Loss", text => text],
};

const reasonOf = row => row.reason === "" ? "Still open" : worded(row.reason);
const valueOf = (name, row) => (DETAILS[name].value ?? (one => one[name]))(row);
const described = row => `${row.isLong ? "▲ Long" : "▼ Short"} #${row.number + 1}: ${price(row, row.entry)} → ${price(row, row.exit)}, ${percents(row.gain)}, ${reasonOf(row).toLowerCase()}${row.tag ? `, ${row.tag}` : ""}`;

// As the market writes prices; an average of several fills, or one with slippage, has no more to say here.
function price(row, value) {
  return written(value, Math.max(data.markets[row.market].decimals, 0));
}

function readTrades() {
  const told = data.trades, held = {};
  for (const name of ["market", "is_long", "reason", "tag", "exit_tag", "entry_time", "exit_time", "entry_price", "exit_price", "quantity", "pnl", "gain", "fees", "funding"]) held[name] = column(told[name]);
  for (let i = 0; i < told.market.length; i++) {
    trades.rows.push({
      number: i, market: held.market[i], isLong: held.is_long[i] === 1, reason: told.reasons[held.reason[i]], tag: told.tag.words[held.tag[i]],
      exitTag: told.exit_tag.words[held.exit_tag[i]],
      entryTime: held.entry_time[i], exitTime: held.exit_time[i], entry: held.entry_price[i], exit: held.exit_price[i],
      quantity: held.quantity[i], pnl: held.pnl[i], gain: held.gain[i], fees: held.fees[i], funding: held.funding[i],
    });
  }
}

const hasNone = name => data.trades[name].words.every(word => word === "");

function showTrades() {
  const isHidden = {market: data.markets.length < 2, tag: hasNone("tag"), exitTag: hasNone("exit_tag")};
  const names = Object.keys(DETAILS).filter(name => !isHidden[name]);
  byId("columns").replaceChildren(...names.map(name => {
    const head = element("th", undefined, {scope: "col", "data-column": name, ...(DETAILS[name].words ? {class: "words"} : {})});
    const button = element("button", DETAILS[name].title, {type: "button"});
    button.addEventListener("click", () => sortBy(name));
    head.append(button);
    return head;
  }));
  for (const [name, [title, of, label]] of Object.entries(CHOICES)) {
    const values = [...new Set(trades.rows.map(of))].sort();
    if (values.length < 2) continue;
    const select = element("select", undefined, {"aria-label": title, "data-filter": name});
    select.append(element("option", `${title}: all`, {value: "*"}), ...values.map(value => element("option", label(value), {value: `=${value}`})));
    select.addEventListener("change", () => {
      trades.filters[name] = select.value === "*" ? undefined : select.value.slice(1);
      list();
    });
    byId("filters").append(select);
  }
  byId("page-back").addEventListener("click", () => turn(trades.page - 1));
  byId("page-on").addEventListener("click", () => turn(trades.page + 1));
  byId("save").addEventListener("click", save);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  trades.names = names;
  list();
}

function sortBy(name) {
  const {sort} = trades;
  sort.isDown = sort.column === name ? !sort.isDown : !DETAILS[name].words && !["number", "entryTime", "exitTime"].includes(name);
  sort.column = name;
  list();
}

function list() {
  const {column: name, isDown} = trades.sort, way = isDown ? -1 : 1;
  const wanted = Object.entries(trades.filters).filter(([, value]) => value !== undefined);
  trades.shown = trades.rows.filter(row => wanted.every(([filter, value]) => CHOICES[filter][1](row) === value));
  trades.shown.sort((one, other) => {
    const a = valueOf(name, one), b = valueOf(name, other);
    return way * (a < b ? -1 : a > b ? 1 : 0) || one.number - other.number;
  });
  for (const head of byId("columns").children) {
    if (head.dataset.column === name) head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  const {of} = data.trades, sum = trades.shown.reduce((all, row) => all + row.pnl, 0), number = value => value.toLocaleString("en-US");
  const left = of > trades.rows.length ? `This page holds the last ${number(trades.rows.length)} of ${number(of)} trades; its figures are of all. ` : "";
  byId("trades-note").textContent = trades.rows.length ? `${left}${number(trades.shown.length)} of ${number(trades.rows.length)} shown, profit ${signed(sum, data.money_decimals)} together. Press one to see it in the chart.` : "No trade was made.";
  turn(0);
}

function turn(page) {
  const pages = Math.max(Math.ceil(trades.shown.length / PER_PAGE), 1);
  trades.page = Math.min(Math.max(page, 0), pages - 1);
  byId("page").textContent = `Page ${trades.page + 1} of ${pages}`;
  byId("page-back").disabled = trades.page === 0;
  byId("page-on").disabled = trades.page === pages - 1;
  byId("rows").replaceChildren(...trades.shown.slice(trades.page * PER_PAGE, (trades.page + 1) * PER_PAGE).map(rowOf));
}

function rowOf(row) {
  const line = element("tr", undefined, {"data-trade": row.number});
  if (row.number === trades.chosen) line.classList.add("chosen");
  for (const name of trades.names) {
    const detail = DETAILS[name], cell = element("td");
    if (name === "number") {
      cell.append(element("button", detail.text(row), {type: "button", "aria-label": `Show trade ${row.number + 1} in the chart`}));
    } else if (detail.tone) {
      cell.append(element("span", detail.text(row), {class: row[name] > 0 ? "gain" : "loss"}));
    } else cell.append(detail.text(row));
    if (detail.words) cell.className = "words";
    if (detail.exact || detail.words) cell.title = detail.exact ? String(row[name]) : detail.text(row);
    line.append(cell);
  }
  line.addEventListener("click", () => {
    choose(row);
    byId("chart").scrollIntoView({block: "start"});
  });
  return line;
}

function choose(row) {
  trades.chosen = row.number;
  byId("chosen").textContent = `${row.number + 1} of ${trades.rows.length.toLocaleString("en-US")}`;
  for (const line of byId("rows").children) line.classList.toggle("chosen", Number(line.dataset.trade) === row.number);
  jumpTo(row);
}

// To the next trade of those that are listed, in the list's order.
function step(way) {
  const {shown} = trades, now = shown.findIndex(row => row.number === trades.chosen);
  const row = shown[now < 0 ? (way > 0 ? 0 : shown.length - 1) : (now + way + shown.length) % shown.length];
  if (!row) return;
  turn(Math.floor(shown.indexOf(row) / PER_PAGE));
  choose(row);
}

function save() {
  const head = ["side", "entry_at", "entry_price", "exit_at", "exit_price", "quantity", "pnl", "return", "exit_reason", "symbol", "fees", "funding", "tag", "exit_tag"];
  // A spreadsheet takes a cell that begins so for a formula.
  const quoted = value => typeof value === "number" ? String(value) : `"${value.replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  const at = seconds => new Date(seconds * 1000).toISOString().replace(".000Z", "+00:00");
  const lines = trades.shown.map(row => [row.isLong ? "LONG" : "SHORT", at(row.entryTime), row.entry, at(row.exitTime), row.exit, row.quantity, row.pnl, row.gain, row.reason, data.markets[row.market].symbol, row.fees, row.funding, row.tag, row.exitTag].map(quoted).join(","));
  const link = element("a", undefined, {download: "trades.csv", href: URL.createObjectURL(new Blob([[head.join(","), ...lines, ""].join("\r\n")], {type: "text/csv"}))});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function main() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old for the charts and the list of trades; one of 2023 or later shows them");
  await unpack();
  readTrades();
  showEquity();
  showCandles();
  showTrades();
  document.documentElement.dataset.ready = "yes";
}

main().catch(trouble => {
  byId("trouble").textContent = `The charts could not be drawn: ${trouble.message}.`;
  byId("trouble").hidden = false;
});
