// Light or dark as Airflow, which keeps its choice in the class of its root element. Without a frame: the system's choice.
(function () {
  var root = document.documentElement;
  function follow() {
    var theme = "";
    try {
      var classes = parent.document.documentElement.classList;
      if (parent !== window) theme = classes.contains("dark") ? "dark" : classes.contains("light") ? "light" : "";
    } catch (error) { /* framed by another server: not allowed anyway */ }
    if (theme) root.dataset.theme = theme;
    // A report has no script. It is told by its address, whose fragment stays in the browser.
    var report = document.querySelector("iframe");
    if (report) report.src = report.dataset.address + (theme && "#" + theme);
  }
  follow();
  try {
    new MutationObserver(follow).observe(parent.document.documentElement, { attributeFilter: ["class"] });
  } catch (error) { /* as above */ }
  document.addEventListener("submit", function (event) {
    var button = event.target.querySelector("button");
    button.disabled = true;
    button.textContent = "Testing …";
  });
})();
