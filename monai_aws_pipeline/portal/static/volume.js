// The 3D page: the images as a volume, the segmentation laid over it, and the surface, each switched by its own box.

"use strict";

const place = document.getElementById("volume");
const said = document.getElementById("said");
const COLOURS = [[230, 80, 70, 255], [80, 160, 240, 255], [110, 200, 110, 255], [240, 190, 70, 255], [180, 110, 220, 255]];

async function parts() {
  const answer = await fetch("parts.json");
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

function follow(boxes, view, told) {
  for (const box of boxes) {
    const is_there = { volume: true, mask: told.masks.length > 0, mesh: told.meshes.length > 0 }[box.dataset.part];
    box.disabled = !is_there;
    box.checked = is_there;
    box.addEventListener("change", () => {
      const shown = box.checked ? 1 : 0;
      if (box.dataset.part === "volume") view.setOpacity(0, shown);
      if (box.dataset.part === "mask") told.masks.forEach((_, index) => view.setOpacity(index + 1, shown * 0.5));
      if (box.dataset.part === "mesh") view.meshes.forEach((mesh) => view.setMeshProperty(mesh.id, "visible", box.checked));
    });
  }
}

async function show() {
  const told = await parts();
  const { Niivue, SLICE_TYPE } = await import(place.dataset.niivue);
  const view = new Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: false, isOrientCube: true, dragAndDropEnabled: false,
    logLevel: "error", isRadiologicalConvention: true, meshThicknessOn2D: 0.6 });
  await view.attachToCanvas(place.querySelector("canvas"));
  const masks = told.masks.map((url) => ({ url, colormap: "red", opacity: 0.5, cal_min: 0.5, cal_max: 1 }));
  await view.loadVolumes([{ url: told.volume, colormap: "gray" }, ...masks]);
  await view.loadMeshes(told.meshes.map((url, index) => ({ url, rgba255: COLOURS[index % COLOURS.length] })));
  view.setSliceType(SLICE_TYPE.MULTIPLANAR);
  view.setMultiplanarLayout(2);
  view.opts.multiplanarShowRender = 1;
  view.drawScene();
  follow(document.querySelectorAll("#parts input"), view, told);
  said.hidden = true;
  place.dataset.shown = "true";
}

show().catch((error) => {
  said.classList.add("failed");
  said.textContent = error.message;
});
