// What OHIF reads before it starts: where its files lie, and the one data source that there is, this study's DICOMweb at our own origin.

"use strict";

(() => {
  const [base, study, job] = location.pathname.match(/^\/viewer\/([0-9a-f]{16})\/([0-9a-f]{32})/);
  const root = `${location.origin}/dicomweb/${study}/${job}`;
  const { files, bundle } = document.currentScript.dataset;
  window.PUBLIC_URL = files;
  window.browserImportFunction = (name) => import(name);
  window.config = {
    routerBasename: base,
    extensions: [],
    modes: [],
    customizationService: [{ "ohif.tours": { $set: [] } }],
    showStudyList: false,
    showWarningMessageForCrossOrigin: false,
    showCPUFallbackMessage: false,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    // The segmentation is laid over its images without being asked about.
    disableConfirmationPrompts: true,
    maxNumberOfWebWorkers: 3,
    maxNumRequests: { interaction: 12, thumbnail: 4, prefetch: 8 },
    defaultDataSourceName: "study",
    dataSources: [
      {
        namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
        sourceName: "study",
        configuration: {
          friendlyName: "study",
          name: "study",
          qidoRoot: root,
          wadoRoot: root,
          qidoSupportsIncludeField: false,
          imageRendering: "wadors",
          thumbnailRendering: "wadors",
          enableStudyLazyLoad: true,
          supportsFuzzyMatching: false,
          supportsWildcard: false,
          supportsReject: false,
          dicomUploadEnabled: false,
          // Whole segmentations whose bits end within a byte are refused by OHIF 3.13, which then asks for their frames anyway.
          loadMultiframeAsPart10: false,
          omitQuotationForMultipartRequest: true,
        },
      },
    ],
  };
  document.addEventListener("DOMContentLoaded", () => {
    const script = document.createElement("script");
    script.src = files + bundle;
    document.head.append(script);
  });
})();
