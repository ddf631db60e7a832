// The chart of candles: the strategy's own lines, and the trades marked on it.

const ROLES = {
  FAST: ["accent", 1], SLOW: ["held", 2], TREND: ["trend", 1], UPPER: ["quiet", 1], MIDDLE: ["held", 1], LOWER: ["quiet", 1],
  STOP: ["loss", 1], OSCILLATOR: ["accent", 1], SIGNAL: ["held", 1], HISTOGRAM: ["quiet", 1], LEVEL: ["quiet", 1],
};
const MOST_SHAPES = 500;
const BESIDE = 25;

// Trades on the candles: where each was entered and left, joined by a line. Shape and dash say what the colour says.
class TradeMarks {
  marks = [];
  chosen = -1;
  inks = {};

  attached({chart, series, requestUpdate}) {
    Object.assign(this, {chart, series, requestUpdate});
  }

  show(marks) {
    this.marks = marks;
    this.requestUpdate?.();
  }

  choose(trade) {
    this.chosen = trade;
    this.requestUpdate?.();
  }

  paint() {
    for (const name of ["gain", "loss", "quiet", "ink", "card"]) this.inks[name] = colour(name);
    this.inks.band = colour("accent", 12);
    this.requestUpdate?.();
  }

  paneViews() { return [this]; }
  zOrder() { return "top"; }
  renderer() { return this; }

  draw(target) {
    const scale = this.chart.timeScale(), range = scale.getVisibleLogicalRange();
    if (!range) return;
    const seen = this.marks.filter(mark => mark.to >= range.from - 1 && mark.from <= range.to + 1);
    const isDense = seen.length > MOST_SHAPES;
    const {inks} = this;
    target.useMediaCoordinateSpace(({context, mediaSize}) => {
      for (const mark of seen) {
        const x1 = scale.logicalToCoordinate(mark.from), x2 = scale.logicalToCoordinate(mark.to);
        const y1 = this.series.priceToCoordinate(mark.entry), y2 = this.series.priceToCoordinate(mark.exit);
        if (x1 === null || x2 === null || y1 === null || y2 === null) continue;
        const isChosen = mark.trade === this.chosen, ink = inks[mark.tone];
        if (isChosen) {
          context.fillStyle = inks.band;
          context.fillRect(x1 - 3, 0, Math.max(x2 - x1, 1) + 6, mediaSize.height);
        }
        context.strokeStyle = ink;
        context.lineWidth = isChosen ? 2.5 : 1.25;
        context.setLineDash(mark.tone === "loss" ? [5, 3] : mark.tone === "quiet" ? [2, 3] : []);
        context.beginPath();
        context.moveTo(x1, y1);
        context.lineTo(x2, y2);
        context.stroke();
        context.setLineDash([]);
        if (isDense && !isChosen) continue;
        this.arrow(context, x1, y1, mark.isLong, inks);
        this.end(context, x2, y2, mark.tone, ink, inks);
      }
    });
  }

  arrow(context, x, y, isLong, inks) {
    const way = isLong ? 1 : -1;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x - 6, y + 10 * way);
    context.lineTo(x + 6, y + 10 * way);
    context.closePath();
    context.fillStyle = inks.ink;
    context.fill();
    context.strokeStyle = inks.card;
    context.lineWidth = 1;
    context.stroke();
  }

  end(context, x, y, tone, ink, inks) {
    context.beginPath();
    if (tone === "loss") {
      context.moveTo(x - 4, y - 4);
      context.lineTo(x + 4, y + 4);
      context.moveTo(x + 4, y - 4);
      context.lineTo(x - 4, y + 4);
    } else context.arc(x, y, 4.5, 0, 7);
    // A rim in the paper's colour, so that it is seen on a candle of its own.
    for (const [style, width] of [[inks.card, 6], [ink, tone === "loss" ? 2.5 : 1.5]]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      context.stroke();
    }
    if (tone === "loss") return;
    context.fillStyle = tone === "gain" ? ink : inks.card;
    context.fill();
  }
}

const candles = {market: -1, view: "", times: [], bars: [], lines: [], marks: new TradeMarks(), series: [], onChosen: () => {}};

function showCandles() {
  candles.chart = chartIn(byId("candle-chart"), {
    timeScale: {timeVisible: true, secondsVisible: false, rightOffset: 4, minBarSpacing: 0.02, enableConflation: true},
    crosshair: {mode: LightweightCharts.CrosshairMode.Normal},
  }, paintCandles);
  candles.chart.subscribeCrosshairMove(event => showLegend(event.logical ?? null));
  data.markets.forEach((market, i) => byId("market").append(element("option", `${market.symbol} ${market.timeframe}`, {value: i})));
  byId("market").closest("label").hidden = data.markets.length < 2;
  byId("market").addEventListener("change", event => showMarket(Number(event.target.value)));
  byId("fit").addEventListener("click", () => candles.chart.timeScale().fitContent());
  byId("closer").addEventListener("click", () => zoom(0.5));
  byId("farther").addEventListener("click", () => zoom(2));
  if (data.markets.length) showMarket(0);
}

function zoom(factor) {
  const scale = candles.chart.timeScale(), range = scale.getVisibleLogicalRange();
  if (!range) return;
  const middle = (range.from + range.to) / 2, half = Math.max((range.to - range.from) * factor / 2, 5);
  scale.setVisibleLogicalRange({from: middle - half, to: middle + half});
}

function showMarket(index, name) {
  const market = data.markets[index], view = market.views.find(one => one.name === name) ?? market.views[0];
  if (candles.market === index && candles.view === view.name) return;
  const isOther = candles.market !== index;
  candles.market = index;
  candles.view = view.name;
  byId("market").value = index;
  showViews(market, view);
  load(market, view, isOther);
  const size = candles.times.length, width = isPhone() ? 90 : 260;
  candles.chart.timeScale().setVisibleLogicalRange({from: Math.max(size - width, 0), to: size + 3});
  showLegend(null);
}

function showViews(market, shown) {
  const names = {near: "Around trades", merged: "All, merged"};
  byId("views").replaceChildren(...(market.views.length < 2 ? [] : market.views.map(view => {
    const button = element("button", names[view.name], {type: "button", "aria-pressed": view === shown});
    button.addEventListener("click", () => showMarket(candles.market, view.name));
    return button;
  })));
  const merged = market.views.find(view => view.name === "merged"), count = market.candles.toLocaleString("en-US");
  const near = market.views.find(view => view.name === "near");
  const notes = market.missing.map(text => `Not drawn: ${text}.`);
  if (merged) {
    notes.unshift(`Of ${count} candles this page holds ${near ? `the ${near.time.length.toLocaleString("en-US")} around trades and ` : ""}all merged, ${merged.factor} in each of ${merged.time.length.toLocaleString("en-US")}: so it stays small.`);
  }
  byId("chart-note").textContent = notes.join(" ");
}

// The arrays of a view, with a place for every stretch that was left out: [times, columns].
function spread(view) {
  const names = ["open", "high", "low", "close", "volume"], starts = new Set(view.gaps);
  const times = column(view.time), columns = [...names.map(one => column(view[one])), ...view.lines.map(column)];
  if (!starts.size) return [Array.from(times), columns];
  const wide = columns.map(() => []), places = [];
  for (let i = 0; i < times.length; i++) {
    if (starts.has(i)) {
      places.push(times[i] - 1);
      wide.forEach(one => one.push(NaN));
    }
    places.push(times[i]);
    columns.forEach((one, at) => wide[at].push(one[i]));
  }
  return [places, wide];
}

function load(market, view, isOther) {
  const [times, [open, high, low, close, volume, ...lines]] = spread(view);
  Object.assign(candles, {times, bars: {open, high, low, close, volume}, lines});
  if (isOther) build(market);
  const [price, bars, ...drawn] = candles.series;
  price.series.setData(times.map((time, i) => isNaN(close[i]) ? {time} : {time, open: open[i], high: high[i], low: low[i], close: close[i]}));
  bars.series.setData(times.map((time, i) => isNaN(close[i]) ? {time} : {time, value: volume[i]}));
  drawn.forEach(({series, role}, at) => series.setData(pointsOf(times, lines[at], role !== "HISTOGRAM")));
  paintCandles();
  candles.marks.show(marksOf(times, close));
}

// A point's colour is that of the line to the next: over what was left out there is none.
function pointsOf(times, values, isLine) {
  return times.map((time, i) => {
    if (isNaN(values[i])) return {time};
    return isLine && isNaN(values[i + 1] ?? 0) ? {time, value: values[i], color: "transparent"} : {time, value: values[i]};
  });
}

// The series of a market: candles and volume, then its lines, each in its pane.
function build(market) {
  const {chart} = candles;
  candles.series.forEach(({series}) => chart.removeSeries(series));
  while (chart.panes().length > 1) chart.removePane(chart.panes().length - 1);
  const still = {priceLineVisible: false, lastValueVisible: false, crosshairMarkerVisible: false};
  const format = decimals => ({type: "custom", minMove: 10 ** -decimals, formatter: value => written(value, Math.max(decimals, 0))});
  const price = chart.addSeries(LightweightCharts.CandlestickSeries, {...still, lastValueVisible: true, priceFormat: format(market.decimals)});
  const bars = chart.addSeries(LightweightCharts.HistogramSeries, {...still, priceScaleId: "volume", priceFormat: {type: "volume"}});
  chart.priceScale("volume").applyOptions({scaleMargins: {top: 0.86, bottom: 0}});
  chart.priceScale("right").applyOptions({scaleMargins: {top: 0.08, bottom: 0.16}});
  candles.series = [{series: price, role: "CANDLES"}, {series: bars, role: "VOLUME"}];
  const panes = [...new Set([...market.lines, ...market.levels].map(line => line.pane))].filter(pane => pane !== "price");
  const paneOf = pane => panes.indexOf(pane) + 1;
  market.lines.forEach(line => {
    const [, width] = ROLES[line.role], isBars = line.role === "HISTOGRAM";
    const options = {...still, lineWidth: width, priceFormat: line.pane === "price" ? format(market.decimals) : {type: "price", precision: 2, minMove: 0.01}};
    if (["UPPER", "LOWER", "STOP"].includes(line.role)) options.lineStyle = LightweightCharts.LineStyle[line.role === "STOP" ? "Dashed" : "Solid"];
    const series = chart.addSeries(LightweightCharts[isBars ? "HistogramSeries" : "LineSeries"], options, paneOf(line.pane));
    candles.series.push({series, role: line.role, line});
  });
  const levels = market.levels.map(level => ({...level, series: (candles.series.find(one => one.line?.pane === level.pane) ?? candles.series[0]).series}));
  candles.levels = levels.map(({series, value}) => series.createPriceLine({price: value, lineStyle: LightweightCharts.LineStyle.Dotted, lineWidth: 1, axisLabelVisible: true, title: ""}));
  chart.panes().forEach((pane, i) => pane.setStretchFactor(i ? 1 : 4));
  price.attachPrimitive(candles.marks);
  showKey(market);
}

function paintCandles() {
  const gain = colour("rise"), loss = colour("fall");
  candles.marks.paint();
  for (const {series, role, line} of candles.series) {
    if (role === "CANDLES") series.applyOptions({upColor: colour("card"), borderUpColor: gain, wickUpColor: gain, downColor: loss, borderDownColor: loss, wickDownColor: loss});
    else if (role === "VOLUME") series.applyOptions({color: colour("quiet", 35)});
    else series.applyOptions({color: lineColour(line)});
  }
  for (const level of candles.levels ?? []) level.applyOptions({color: colour("quiet")});
}

const lineColour = line => colour(ROLES[line.role][0], line.role === "HISTOGRAM" ? 60 : 100);

function showKey(market) {
  const shapes = ["▲ entry, long", "▼ entry, short", "● left with a gain", "✕ left with a loss", "○ still open"];
  const lines = market.lines.map(line => {
    const stroke = element("span", undefined, {class: "stroke"});
    stroke.style.borderColor = lineColour(line);
    return element("span", stroke);
  });
  lines.forEach((one, i) => one.append(market.lines[i].label));
  byId("key").replaceChildren(...shapes.map(text => element("span", text)), ...lines);
}

function marksOf(times, close) {
  const marks = [];
  trades.rows.forEach(row => {
    if (row.market !== candles.market) return;
    const from = lastUpTo(times, row.entryTime), to = lastUpTo(times, row.exitTime);
    // Where the candles of a trade were left out there is nothing to mark it on.
    if (from < 0 || isNaN(close[from]) || isNaN(close[to]) || !covers(times, from, row.entryTime) || !covers(times, to, row.exitTime)) return;
    marks.push({trade: row.number, from, to, entry: row.entry, exit: row.exit, isLong: row.isLong, tone: row.reason === "" ? "quiet" : row.pnl > 0 ? "gain" : "loss"});
  });
  return marks;
}

function covers(times, index, time) {
  const market = data.markets[candles.market], view = market.views.find(one => one.name === candles.view);
  return view.name !== "near" || time < times[index] + market.step;
}

function showLegend(logical) {
  const market = data.markets[candles.market], {bars, times} = candles;
  if (!market || !times.length) return;
  const i = logical === null ? times.length - 1 : Math.min(Math.max(Math.round(logical), 0), times.length - 1);
  if (isNaN(bars.close[i])) return byId("legend").replaceChildren("left out");
  const price = value => written(value, Math.max(market.decimals, 0));
  const parts = [element("b", `${market.symbol} `), `${timeOf(times[i])}  O ${price(bars.open[i])}  H ${price(bars.high[i])}  L ${price(bars.low[i])}  C ${price(bars.close[i])}  V ${bars.volume[i].toLocaleString("en-US", {maximumSignificantDigits: 3})}`];
  const values = element("div");
  if (!isPhone()) market.lines.forEach((line, at) => {
    const value = candles.lines[at][i];
    const text = element("span", `${line.label} ${isNaN(value) ? "–" : line.pane === "price" ? price(value) : written(value, 2)}  `);
    text.style.color = colour(ROLES[line.role][0]);
    values.append(text);
  });
  parts.push(values);
  const marks = logical === null ? [] : candles.marks.marks.filter(mark => mark.from <= i && mark.to >= i).slice(0, 3);
  for (const mark of marks) parts.push(element("div", described(trades.rows[mark.trade])));
  byId("legend").replaceChildren(...parts);
}

// Show a trade as large as it is, with some candles beside it.
function jumpTo(row) {
  const market = data.markets[row.market];
  const inView = name => (showMarket(row.market, name), candles.marks.marks.find(mark => mark.trade === row.number));
  const isHere = candles.market === row.market && candles.view === "near";
  const mark = inView(isHere ? "near" : market.views[0].name) ?? inView(market.views.at(-1).name);
  candles.marks.choose(row.number);
  if (!mark) return;
  const beside = Math.max(BESIDE, Math.round((mark.to - mark.from) * 0.4));
  candles.chart.timeScale().setVisibleLogicalRange({from: mark.from - beside, to: mark.to + beside});
  showLegend(mark.to);
}
