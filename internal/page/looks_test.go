package page_test

import (
	"fmt"
	"testing"
	"time"
)

// looks are the ways in which the pages are looked at: at a desk and on a phone, light and dark.
var looks = map[string]look{
	"desktop-light": {width: 1280, height: 900},
	"desktop-dark":  {width: 1280, height: 900, dark: true},
	"phone-light":   {width: 390, height: 844, phone: true, still: true},
	"phone-dark":    {width: 390, height: 844, phone: true, still: true, dark: true},
}

// TestPagesLookRight looks at both pages in each way, in calm and in trouble: nothing is cut off at
// the side, every text can be read, every control has a name, and with less motion nothing moves.
// PAGE_PICTURES=DIR also writes pictures.
func TestPagesLookRight(t *testing.T) {
	for name, how := range looks {
		t.Run("device-"+name, func(t *testing.T) {
			s := stage(t)
			b := openPage(t, "http://"+s.addr+"/", how)
			b.until(`document.querySelector("#verdict").dataset.mood === "good"`)
			b.right("device-" + name + "-calm")
			s.killHub()
			b.until(`document.querySelector("#verdict").dataset.mood === "bad"`)
			b.right("device-" + name + "-outage")
		})
		t.Run("simulator-"+name, func(t *testing.T) {
			cloud := startCloud(t, nil)
			startDevices(t, cloud, 100*time.Millisecond, names("pump", 40)...)
			b := openPage(t, cloud.Info().Control+"/", how)
			b.until(`document.querySelector('[data-hub="hub-a"]')?.dataset.devices === "40" && dots.dataset.moving === "0"`)
			b.right("simulator-" + name + "-calm")
			b.click(place("hub-a") + " .attack")
			if name == "desktop-light" {
				b.until(`Number(dots.dataset.moving) > 15`)
				b.pictureOf("simulator-stage", "#stage") // docs/page.md shows it
			}
			if how.still {
				value[bool](b, `{ window.moved = false; new MutationObserver(() => { moved ||= dots.dataset.moving !== "0"; }).observe(dots, {attributes: true}); true }`)
			}
			b.until(`document.querySelector('[data-hub="hub-b"]').dataset.devices === "40" && dots.dataset.moving === "0"`)
			if how.still && value[bool](b, `moved || document.getAnimations().length > 0`) {
				t.Error("something moves although the person wants no motion")
			}
			b.right("simulator-" + name + "-lizard")
		})
	}
}

// right checks what can be checked of how a page looks, and writes a picture.
func (b *tab) right(name string) {
	b.t.Helper()
	b.picture(name)
	if wide := value[string](b, `document.documentElement.scrollWidth > innerWidth ? document.documentElement.scrollWidth + " of " + innerWidth : ""`); wide != "" {
		b.t.Errorf("%s is too wide: %s", name, wide)
	}
	if cut := value[string](b, `((t) => t !== null && t.scrollWidth > t.parentElement.clientWidth ? t.scrollWidth + " of " + t.parentElement.clientWidth : "")(document.querySelector(".moves, .devices"))`); cut != "" {
		b.t.Errorf("%s: the table is cut off: %s", name, cut)
	}
	for _, fault := range value[[]string](b, fmt.Sprintf("(%s)()", faultsOfLooks)) {
		b.t.Errorf("%s: %s", name, fault)
	}
}

// faultsOfLooks is a function of JavaScript. It returns a sentence for each text whose contrast is
// below that of WCAG 2 AA (4.5, for large text 3), for each control without a name, for each target
// on a phone that is smaller than 24 pixels, and for each landmark that is missing.
const faultsOfLooks = `() => {
	const faults = [];
	const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
	const rgba = (color) => {
		canvas.clearRect(0, 0, 1, 1);
		canvas.fillStyle = color;
		canvas.fillRect(0, 0, 1, 1);
		const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
		return [r, g, b, a / 255];
	};
	const light = (c) => {
		const [r, g, b] = c.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const ground = (node) => {
		for (; node !== null; node = node.parentElement) {
			const c = rgba(getComputedStyle(node).backgroundColor);
			if (c[3] === 1) return c;
		}
		return [255, 255, 255, 1];
	};
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	let seen = 0;
	while (texts.nextNode()) {
		const node = texts.currentNode.parentElement;
		if (texts.currentNode.data.trim() === "" || !node.checkVisibility() || node.closest(".unseen, .skip, svg, :disabled")) continue;
		seen++;
		const style = getComputedStyle(node);
		const [a, b] = [light(rgba(style.color)), light(ground(node))];
		const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		const size = parseFloat(style.fontSize);
		const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
		if (contrast < least) faults.push(JSON.stringify(texts.currentNode.data.trim()) + " has a contrast of " + contrast.toFixed(2));
	}
	if (seen < 30) faults.push("only " + seen + " texts");
	for (const control of document.querySelectorAll("button, select, input, summary, a, [tabindex='0']")) {
		if (!control.checkVisibility()) continue;
		const name = control.getAttribute("aria-label") || control.textContent.trim() || control.labels?.[0]?.textContent.trim() || document.getElementById(control.getAttribute("aria-labelledby"))?.textContent;
		if (!name) faults.push("a control has no name: " + control.outerHTML);
		const box = control.getBoundingClientRect();
		if (matchMedia("(pointer: coarse)").matches && control.matches("button, select") && box.height < 24) faults.push("a target is too small: " + control.outerHTML);
	}
	for (const landmark of ["header", "main", "footer", "h1", "[aria-live]", "html[lang]"]) {
		if (document.querySelector(landmark) === null) faults.push("there is no " + landmark);
	}
	for (const labelled of document.querySelectorAll("[aria-labelledby]")) {
		if (document.getElementById(labelled.getAttribute("aria-labelledby")) === null) faults.push("nothing labels " + labelled.outerHTML.slice(0, 80));
	}
	const ids = [...document.querySelectorAll("[id]")].map((n) => n.id);
	for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) faults.push("the id " + id + " is there twice");
	return faults;
}`
