function sortTable(event) {
  const head = event.target.closest("table.sortable th");
  if (!head || (event.key && event.key !== "Enter")) return;
  const down = head.getAttribute("aria-sort") === "ascending";
  const text = row => row.cells[head.cellIndex].textContent
    .replace(/,(?=\d{3})/g, "").replace("·10^", "e").trim();
  const compare = (a, b) => {
    if (!text(a) || !text(b)) return !text(a) - !text(b);
    const difference = parseFloat(text(a)) - parseFloat(text(b));
    const order = isNaN(difference) ? text(a).localeCompare(text(b)) : difference;
    return down ? -order : order;
  };
  head.parentNode.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = head.closest("table").tBodies[0];
  body.append(...[...body.rows].sort(compare));
}
document.addEventListener("click", sortTable);
document.addEventListener("keydown", sortTable);

// a box above each long table that leaves the rows with all of its words
function addFilter(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 12) return;
  const label = document.createElement("label"), box = document.createElement("input");
  const count = document.createElement("output");
  label.className = "page filter";
  box.type = "search";
  label.append("Rows with ", box, " ", count);
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/);
    rows.forEach(row => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    });
    count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
  });
  table.parentNode.before(label);
}
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("table.sortable").forEach(addFilter);
});

// marks lead to the page of their run where the page is part of a site, which says where runs lie
function drawChart(place, specification) {
  const figure = document.getElementById(place), room = figure.clientWidth;
  if (room < 640) {
    const below = {orient: "bottom", columns: 1, labelLimit: room - 40};
    specification.config.legend = {...specification.config.legend, ...below};
    specification.height += 80;
  }
  specification.width = Math.min(room, 900);
  specification.autosize = {type: "fit", contains: "padding"};
  vegaEmbed(figure, specification, {actions: false, renderer: "svg"}).then(({view}) => {
    const runs = document.querySelector("[data-runs]")?.dataset.runs;
    if (runs === undefined) return;
    const open = item => {
      const run = item?.datum?.run;
      if (run) location.href = `${runs}${encodeURIComponent(run.split("/").pop())}.html`;
    };
    view.addEventListener("click", (event, item) => open(item));
    figure.querySelectorAll(".mark-symbol.role-mark path").forEach(mark => {
      mark.setAttribute("tabindex", "0");
      mark.setAttribute("role", "link");
      mark.addEventListener("keydown", event => event.key === "Enter" && open(mark.__data__));
    });
  });
}
