// Light or dark as Airflow, which keeps its choice in the class of its root element. Without a frame: the system's choice.
(function () {
  function follow() {
    try {
      var classes = parent.document.documentElement.classList;
      if (parent !== window && classes.contains("dark")) document.documentElement.dataset.theme = "dark";
      else if (parent !== window && classes.contains("light")) document.documentElement.dataset.theme = "light";
    } catch (error) { /* framed by another server: not allowed anyway */ }
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
