// A click on the head of a column sorts the rows of its table; the page is whole without it.
document.querySelectorAll('thead th').forEach(function (head) {
  head.addEventListener('click', function () {
    var body = head.closest('table').tBodies[0];
    var place = head.cellIndex;
    var sign = head.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
    head.parentNode.querySelectorAll('th').forEach(function (other) { other.removeAttribute('aria-sort'); });
    head.setAttribute('aria-sort', sign === 1 ? 'ascending' : 'descending');
    var key = function (row) { return row.cells[place].dataset.key || row.cells[place].textContent.trim(); };
    var order = function (a, b) { return sign * key(a).localeCompare(key(b), undefined, { numeric: true }); };
    var numbers = function (a, b) { return sign * (Number(key(a)) - Number(key(b))); };
    var rows = Array.from(body.rows);
    rows.sort(rows.some(function (row) { return isNaN(Number(key(row))); }) ? order : numbers);
    rows.forEach(function (row) { row.classList.remove('rule'); body.appendChild(row); });
  });
});
