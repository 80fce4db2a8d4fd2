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
