// Both charts: their colours, which follow the reader's, and the one of equity.

const charts = [];
const FLAT = 6;
const spanOf = values => values.reduce((most, one) => Math.max(most, one), -Infinity) - values.reduce((least, one) => Math.min(least, one), Infinity);
const isPhone = () => window.innerWidth < 600;

function colour(name, share = 100) {
  const value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  if (share === 100) return value;
  const full = value.length === 4 ? value.replace(/[^#]/g, "$&$&") : value;
  return full + Math.round(share * 2.55).toString(16).padStart(2, "0");
}

const look = () => ({
  layout: {
    background: {color: colour("card")}, textColor: colour("quiet"), fontSize: 11, fontFamily: getComputedStyle(document.body).fontFamily,
    panes: {separatorColor: colour("rule"), separatorHoverColor: colour("grid")},
  },
  grid: {vertLines: {color: colour("grid")}, horzLines: {color: colour("grid")}},
  rightPriceScale: {borderColor: colour("rule")},
  timeScale: {borderColor: colour("rule")},
  crosshair: {vertLine: {color: colour("quiet"), labelBackgroundColor: colour("label")}, horzLine: {color: colour("quiet"), labelBackgroundColor: colour("label")}},
});

// `paint` is called with each change of colours.
function chartIn(box, options, paint) {
  const chart = LightweightCharts.createChart(box, {...options, autoSize: true, localization: {locale: "en-GB"}});
  chart.applyOptions(look());
  charts.push({box, chart, paint});
  return chart;
}

function repaint() {
  for (const {chart, paint} of charts) {
    chart.applyOptions(look());
    paint();
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
// On paper: light, and as wide as the sheet.
addEventListener("beforeprint", () => {
  document.documentElement.classList.add("paper");
  repaint();
  for (const {box, chart} of charts) {
    chart.applyOptions({autoSize: false});
    const range = chart.timeScale().getVisibleLogicalRange();
    chart.resize(Math.min(660, box.clientWidth), box.clientHeight);
    if (range) chart.timeScale().setVisibleLogicalRange(range);
    chart.resize(Math.min(660, box.clientWidth), box.clientHeight, true);
  }
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("paper");
  repaint();
  for (const {chart} of charts) chart.applyOptions({autoSize: true});
});

function showEquity() {
  const told = data.equity, times = column(told.time);
  const chart = chartIn(byId("equity-chart"), {
    timeScale: {timeVisible: true, secondsVisible: false, minBarSpacing: 0.01},
    layout: {attributionLogo: false},
  }, paint);
  const points = values => Array.from(times, (time, i) => ({time, value: values[i]}));
  const still = {
    priceLineVisible: false, lastValueVisible: true, crosshairMarkerRadius: 3,
    priceFormat: {type: "custom", minMove: 10 ** -data.money_decimals, formatter: value => written(value, Math.abs(value) >= 1000 ? 0 : data.money_decimals)},
  };
  const equity = chart.addSeries(LightweightCharts.LineSeries, {...still, lineWidth: 2});
  const held = chart.addSeries(LightweightCharts.LineSeries, {...still, lineWidth: 1, lineStyle: LightweightCharts.LineStyle.Dashed});
  const drawdown = chart.addSeries(LightweightCharts.BaselineSeries, {
    ...still, lineWidth: 1, baseValue: {type: "price", price: 0},
    priceFormat: {type: "custom", minMove: 0.0001, formatter: value => written(value * 100, 1) + " %"},
  }, 1);
  held.setData(points(column(told.held)));
  equity.setData(points(column(told.equity)));
  drawdown.setData(points(column(told.drawdown)));
  chart.panes()[0].setStretchFactor(3);
  chart.panes()[1].setStretchFactor(1);
  chart.timeScale().fitContent();

  function paint() {
    equity.applyOptions({color: colour("accent")});
    held.applyOptions({color: colour("held")});
    const fall = colour("loss"), none = colour("loss", 0);
    drawdown.applyOptions({
      topLineColor: fall, topFillColor1: none, topFillColor2: none,
      bottomLineColor: fall, bottomFillColor1: colour("loss", 12), bottomFillColor2: colour("loss", 45),
    });
  }
  paint();
  if (told.of > times.length) {
    byId("equity-note").textContent = `Drawn from ${times.length.toLocaleString("en-US")} of ${told.of.toLocaleString("en-US")} closes: of every stretch its highest, its lowest and its last.`;
  }
  // Beside a market that moved far more, a line of its own would be flat.
  const spans = [told.equity, told.held].map(one => spanOf(column(one)));
  const showHeld = isShown => {
    held.applyOptions({visible: isShown});
    byId("equity-held").setAttribute("aria-pressed", isShown);
  };
  showHeld(spans[1] < FLAT * spans[0]);
  byId("equity-held").addEventListener("click", event => showHeld(event.target.getAttribute("aria-pressed") !== "true"));
  byId("equity-fit").addEventListener("click", () => chart.timeScale().fitContent());
  byId("equity-log").addEventListener("click", event => {
    const isLog = event.target.getAttribute("aria-pressed") !== "true";
    event.target.setAttribute("aria-pressed", isLog);
    chart.priceScale("right", 0).applyOptions({mode: isLog ? LightweightCharts.PriceScaleMode.Logarithmic : LightweightCharts.PriceScaleMode.Normal});
  });
}
